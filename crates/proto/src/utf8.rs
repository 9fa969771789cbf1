//! UTF-8 validation of a stream in pieces.
