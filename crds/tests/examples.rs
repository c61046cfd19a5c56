//! Every example is a resource that runs, and expands to what its comments say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use inferbench_crds::{
    Scope,
    design::Expansion,
    expectation::Expectation,
    file::{load, load_expectations, parse},
};

fn examples() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let folders = [folder.clone(), folder.join("study")];
    let files = folders.iter().flat_map(|folder| {
        let files = fs::read_dir(folder).expect("a folder of examples");
        files.map(|entry| entry.expect("a file").path())
    });
    files
        // Expectations alone are no resource.
        .filter(|path| !path.ends_with("expectations.yaml"))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read_to_string(&path).expect("a text"))
        })
        .collect()
}

#[test]
fn every_example_is_valid() {
    let examples = examples();
    assert!(
        examples.contains_key("quickstart.yaml"),
        "{:?}",
        examples.keys()
    );
    for (name, text) in examples {
        let resources = parse(&text, &name).unwrap_or_else(|error| panic!("{error}"));
        let stores = || resources.iter().map(|one| one.spec.results.store.as_ref());
        // One with a store is meant for a cluster, and one whose store is a claim for nothing else.
        if stores().all(|store| store.is_some()) {
            load(&text, &name, Scope::Cluster).unwrap_or_else(|error| panic!("{error}"));
        }
        if stores()
            .flatten()
            .all(|store| store.persistent_volume_claim.is_none())
        {
            load(&text, &name, Scope::Local).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn the_sizes_in_the_comments_are_true() {
    let size = |name: &str| {
        let resources = parse(&examples()[name], name).expect("a valid example");
        let expansion = Expansion::new(&resources[0].spec.design);
        (
            expansion.combinations_before_exclusion(),
            expansion.excluded().count(),
            expansion.len(),
        )
    };
    assert_eq!(size("dtypes.yaml"), (10, 0, 30));
    assert_eq!(size("kueue.yaml"), (9, 0, 45));
    assert_eq!(size("quickstart.yaml"), (8, 0, 16));
    assert_eq!(size("quickstart-pvc.yaml"), (8, 0, 16));
    assert_eq!(size("quickstart-s3.yaml"), (8, 0, 16));
    assert_eq!(size("selected.yaml"), (1_512, 0, 192));
    assert_eq!(size("spot.yaml"), (16, 0, 80));
    assert_eq!(size("until.yaml"), (8, 0, 80));
    assert_eq!(size("gpt2.yaml"), (1_260, 252, 10_080));
    assert_eq!(size("llama3.yaml"), (1_260, 252, 10_080));
    assert_eq!(size("cpu.yaml"), (128, 0, 384));
    assert_eq!(size("server.yaml"), (32, 0, 96));
    assert_eq!(size("mix.yaml"), (32, 16, 48));
}

/// The findings of the study can be read, and those of the small relative are the same of another model.
#[test]
fn the_studys_findings_are_expectations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/study/expectations.yaml");
    let text = fs::read_to_string(&path).expect("a text");
    let findings = load_expectations(&text, "expectations.yaml", std::iter::empty())
        .unwrap_or_else(|error| panic!("{error}"));
    let numbers: BTreeSet<u32> = findings
        .iter()
        .map(|finding| {
            let number = finding.name.split(' ').next().expect("a number");
            number.parse().expect("a number")
        })
        .collect();
    assert_eq!(numbers, (1..=13).collect());
    let small = parse(&examples()["cpu.yaml"], "cpu.yaml").expect("a valid example");
    let of_small = |text: &str| {
        text.replace("llama3-8b", "qwen2.5-0.5b")
            .replace("Llama 3", "Qwen2.5")
    };
    let expected: Vec<Expectation> = findings
        .iter()
        .map(|finding| Expectation {
            name: of_small(&finding.name),
            that: of_small(&finding.that),
            reference: finding.reference.clone(),
        })
        .collect();
    assert_eq!(small[0].spec.expectations, expected);
    // Those for a server are some of them, of all models and without GPUs.
    let server = parse(&examples()["server.yaml"], "server.yaml").expect("a valid example");
    let plain = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").replace(", {'model': 'gpt2'}", "")
    };
    for of_server in &server[0].spec.expectations {
        let known = findings
            .iter()
            .any(|finding| plain(&finding.that) == plain(&of_server.that));
        assert!(known, "{of_server:?}");
    }
}
