//! The command line of zinc.

fn main() {}
