//! The report of a sweep: what it says, and where it goes.

use std::{ffi::OsStr, fs, path::PathBuf};

use crate::place::{Place, SPEC, stderr, stdout};

#[test]
fn a_sweep_is_reported_on_at_its_end_and_again_at_any_time() {
    let spec = SPEC.replace("  execution:", "  objectives: {maxTtft: 10s}\n  execution:");
    let place = Place::new(&spec);
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let collected = fs::read_to_string(place.out().join("report.html")).unwrap();
    assert!(
        collected.contains("tiny") && collected.contains("TTFT"),
        "{collected}"
    );
    // A machine that is busy with other things leaves invalid trials, and of those nothing is drawn.
    let figures: Vec<PathBuf> = fs::read_dir(place.out().join("figures"))
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    let figures: Vec<&str> = figures
        .iter()
        .filter(|path| path.extension() == Some(OsStr::new("svg")))
        .filter_map(|path| path.file_stem()?.to_str())
        .collect();
    let all_valid = place.rows().iter().all(|row| row.valid == Some(true));
    if all_valid {
        assert!(figures.contains(&"factors"), "{figures:?}");
    }
    let manifest = fs::read_to_string(place.out().join("manifest.json")).unwrap();
    let drawn = figures.iter().map(|name| format!("figures/{name}.svg"));
    for name in drawn.chain(["analysis.json".into(), "report.html".into()]) {
        assert!(manifest.contains(&name), "{name}: {manifest}");
    }

    // The same page, beside what the collection made, and under the objectives of the collection.
    let output = place.command(&["report", "out"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again = fs::read_to_string(place.out().join("report/report.html")).unwrap();
    assert_eq!(again, collected);
    for name in &figures {
        let png = place.out().join(format!("report/figures/{name}.png"));
        assert!(fs::read(png).unwrap().starts_with(b"\x89PNG"), "{name}");
    }
    for folder in [place.out(), place.out().join("report")] {
        for link in again.split("href=\"").skip(1) {
            let file = link.split('"').next().unwrap();
            assert!(
                file.starts_with('#') || folder.join(file).exists(),
                "{file} in {}",
                folder.display()
            );
        }
    }

    // Of the table alone, and under other objectives.
    fs::copy(
        place.out().join("trials.csv"),
        place.path().join("trials.csv"),
    )
    .unwrap();
    let arguments = ["report", "trials.csv", "-f", "md", "--max-ttft", "0ms"];
    let output = place.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("### tiny"),
        "{}",
        stdout(&output)
    );
    if all_valid {
        assert!(stdout(&output).contains("TTFT ≤ 0"), "{}", stdout(&output));
    }

    // Twice the same sweep, side by side.
    let output = place
        .command(&["report", "out", "trials.csv", "-f", "json"])
        .output()
        .unwrap();
    assert!(stdout(&output).contains("tiny (1)"), "{}", stderr(&output));

    let output = place
        .command(&["report", "out", "-f", "json"])
        .output()
        .unwrap();
    let analysis: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(analysis["sweep"], "tiny");

    // The same of a URL.
    let url = format!("file://{}", place.out().display());
    let of_url = place.command(&["report", &url, "-f", "json"]).output();
    assert_eq!(stdout(&of_url.unwrap()), stdout(&output));
}

#[test]
fn what_cannot_be_reported_on_is_named() {
    let place = Place::untouched(SPEC);
    fs::create_dir(place.path().join("empty")).unwrap();
    fs::write(place.path().join("other.csv"), "a,b\n1,2\n").unwrap();
    let few = "sweep,trial_index,trial_key,attempt,replicate,run_order,model,model_revision,dtype,batch_size,input_len,\
               output_len,gpus\nfew,0,,0,0,0,tiny,,f32,1,1,1,0\n";
    fs::write(place.path().join("few.csv"), few).unwrap();
    fs::create_dir(place.path().join("collected")).unwrap();
    fs::write(place.path().join("collected/manifest.json"), "{}").unwrap();
    for (arguments, said) in [
        (
            &["report", "nowhere"][..],
            "nowhere: is neither a folder nor a file",
        ),
        (&["report", "empty"], "trials.csv is missing"),
        (&["report", "other.csv"], "other.csv: "),
        (
            &["report", "few.csv", "--out", "collected"],
            "collected: holds a collected sweep",
        ),
        (
            &["report", "empty", "--max-ttft", "fast"],
            "\"fast\" is not a duration such as 500ms",
        ),
        (
            &["report", "empty", "--cost-per-gpu-hour", "1e9"],
            "\"1e9\" is not a price such as 2.50",
        ),
    ] {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(said),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    assert!(
        !place.path().join("nowhere").exists(),
        "nothing is made by looking"
    );
}

#[test]
fn what_a_table_made_elsewhere_needs_said_is_said_beside_its_figures() {
    let place = Place::untouched(SPEC);
    let header = "sweep,trial_index,trial_key,attempt,replicate,run_order,outcome,valid,model,model_revision,dtype,\
                  batch_size,input_len,output_len,gpus,mean_ttlt_ms";
    let line = |index: u32, ms: &str| {
        format!("elsewhere,{index},,0,0,{index},Succeeded,true,tiny,,f32,1,16,64,0,{ms}\n")
    };
    let table = |name: &str, lines: &[String]| {
        let text = format!("{header}\n{}", lines.concat());
        fs::write(place.path().join(name), text).unwrap();
    };
    let lines = [line(0, "12.5"), line(1, "13.5"), line(2, "NaN")];
    table("trials.csv", &lines);
    let said = "Several valid rows of one combination in one replicate";
    for (arguments, shown) in [
        (&["report", "trials.csv", "-f", "md"][..], true),
        (&["report", "trials.csv", "-f", "json"], true),
        (&["report", "trials.csv", "--out", "page"], false),
        (&["compare", "trials.csv", "trials.csv"], true),
        (
            &["export", "llm-d", "trials.csv", "--out", "exported"],
            false,
        ),
    ] {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert_eq!(stdout(&output).contains(said), shown, "{arguments:?}");
    }
    let page = fs::read_to_string(place.path().join("page/report.html")).unwrap();
    assert!(page.contains(said) && page.contains("line 4, mean_ttlt_ms: NaN"));

    table("contradiction.csv", &[line(0, "12.5"), line(0, "13.5")]);
    let output = place.command(&["report", "contradiction.csv"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains(
            "lines 2 and 3: both are of trial_index 0, attempt 0, but they differ in mean_ttlt_ms (12.5, 13.5)"
        ),
        "{}",
        stderr(&output)
    );
}
