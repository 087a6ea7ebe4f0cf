//! The program: flags, then `control::run()`.
fn main() {}
