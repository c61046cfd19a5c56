//! Processes: this one's exit code, signals and locks, and those that it starts.

pub mod child;
pub mod exit;
pub mod fault;
pub mod lock;
pub mod orphans;
pub mod program;
pub mod server;
pub mod signals;

/// Prints an error on standard error, all its causes on one line.
pub fn print_error(error: &dyn std::fmt::Display) {
    eprintln!("inferbench: {error}");
}
