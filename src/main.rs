//! The program: everything happens in `control`.

fn main() -> std::process::ExitCode {
    pgdog::control::run()
}
