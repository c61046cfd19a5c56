//! A local folder: promises kept through kills and truncation.

use std::time::Duration;

use inferbench_runner::store::{Created, Store, StoreOptions};
use tempfile::tempdir;

fn open(folder: &std::path::Path) -> Store {
    Store::open(folder.to_str().unwrap(), &StoreOptions::default()).unwrap()
}

#[test]
fn a_folder_behaves() {
    let folder = tempdir().unwrap();
    let store = open(&folder.path().join("made/on the way #1"));
    super::behave(&store);
    assert!(store.folder().unwrap().join("trials/a.json").is_file());
}

#[test]
fn a_file_url_is_the_same_folder() {
    let folder = tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    Store::open(&url, &StoreOptions::default())
        .unwrap()
        .create("trials/a.json", b"1")
        .unwrap();
    assert_eq!(
        open(folder.path()).get("trials/a.json").unwrap().unwrap(),
        b"1"
    );
}

#[test]
fn one_of_eight_creates() {
    let folder = tempdir().unwrap();
    let stores: Vec<Store> = (0..8).map(|_| open(folder.path())).collect();
    for round in 0..20 {
        super::race(&stores, &format!("trials/{round}.json"));
    }
    let leftovers = std::fs::read_dir(folder.path().join("trials"))
        .unwrap()
        .count();
    assert_eq!(leftovers, 20, "losers clean up");
}

#[test]
fn what_a_killed_writer_left_is_never_read() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    std::fs::create_dir(folder.path().join("trials")).unwrap();
    // A writer was killed before it linked its file into place, another one after.
    std::fs::write(folder.path().join("trials/a.json#1"), b"{\"half").unwrap();
    std::fs::write(folder.path().join("trials/b.json"), b"whole").unwrap();
    std::fs::hard_link(
        folder.path().join("trials/b.json"),
        folder.path().join("trials/b.json#1"),
    )
    .unwrap();
    let paths: Vec<String> = store
        .list("trials")
        .unwrap()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert_eq!(paths, ["trials/b.json"]);
    assert_eq!(
        store.create("trials/a.json", b"anew").unwrap(),
        Created::New
    );
    assert_eq!(store.get("trials/a.json").unwrap().unwrap(), b"anew");

    assert_eq!(
        store.remove_leftovers(Duration::from_secs(3600)).unwrap(),
        0,
        "a writer may be at work"
    );
    assert_eq!(store.remove_leftovers(Duration::ZERO).unwrap(), 2);
    assert_eq!(store.get("trials/b.json").unwrap().unwrap(), b"whole");
    assert_eq!(
        std::fs::read_dir(folder.path().join("trials"))
            .unwrap()
            .count(),
        2
    );
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let target = folder.path().join("file/below");
    let error = Store::open(target.to_str().unwrap(), &StoreOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("file/below"), "{error}");
}
