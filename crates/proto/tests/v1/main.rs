//! `lifeline.v1`: both machines against each other.

mod failures;
mod model;
mod vectors;
mod world;
