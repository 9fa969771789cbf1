//! `lifeline.v1`: both machines against each other.

mod documents;
mod failures;
mod hostile;
mod model;
mod vectors;
mod world;
