//! A machine that is busy with something else, as a user meets it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::place::{Place, SPEC, stderr};

/// Processes that do nothing but compute, one for each CPU, and end with the test.
struct Busy(Vec<Child>);

impl Busy {
    fn all_cpus() -> Self {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let spin = |_| {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).spawn().unwrap()
        };
        Self((0..cpus).map(spin).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_busy_machine_is_told_before_the_first_trial() {
    let place = Place::new(&SPEC.replace("[1, 2]", "[1]").replace("[4, 8]", "[4]"));
    let busy = Busy::all_cpus();
    let output = place.run(&["--require-quiet"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("inferbench: this machine is not quiet:\n"),
        "{said}"
    );
    assert!(said.contains("busy, in percent of a CPU: "), "{said}");
    assert!(
        said.contains("Nothing was measured, as --require-quiet asks"),
        "{said}"
    );
    assert!(place.documents().is_empty());

    // Without it the run goes on, once it has said so.
    let mut command = place.command(&["run", "spec.yaml", "--out", "out"]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let before: Vec<String> = lines
        .by_ref()
        .map(Result::unwrap)
        .take_while(|line| !line.contains("warning: this machine is not quiet:"))
        .collect();
    drop(busy);
    let after: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{after:?}");
    let trial = |lines: &[String]| lines.iter().any(|line| line.starts_with("[1/2]"));
    assert!(!trial(&before) && trial(&after), "{before:?} {after:?}");
    assert_eq!(place.documents().len(), 2);

    // Where nothing is left to measure, nobody has to be quiet.
    let output = place.run(&["--require-quiet"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
