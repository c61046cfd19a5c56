//! The store and the collection against real stores: a local folder, one in memory, and an S3 server that checks
//! signatures (see `server`; its tests skip with a word where it is not installed).

mod collect;
mod local;
mod overwriting;
mod s3;
mod server;
mod tls;

use std::sync::Barrier;

use inferbench_runner::store::{Created, Store};

/// Eight writers create one object at the same moment: exactly one of them succeeds, and its bytes stay.
fn race(stores: &[Store], path: &str) {
    let barrier = Barrier::new(stores.len());
    let winners: Vec<usize> = std::thread::scope(|scope| {
        let writers: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(at, store)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    store
                        .create(path, format!("writer {at}").as_bytes())
                        .unwrap()
                        == Created::New
                })
            })
            .collect();
        let won = writers.into_iter().map(|writer| writer.join().unwrap());
        won.enumerate()
            .filter_map(|(at, won)| won.then_some(at))
            .collect()
    });
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    assert_eq!(
        stores[0].get(path).unwrap().unwrap(),
        format!("writer {}", winners[0]).as_bytes()
    );
}

/// The contract of every store.
fn behave(store: &Store) {
    store.probe().unwrap();
    store.probe().unwrap();
    assert_eq!(store.get("trials/a.json").unwrap(), None);
    assert_eq!(
        store.create("trials/a.json", b"first").unwrap(),
        Created::New
    );
    assert_eq!(
        store.create("trials/a.json", b"other").unwrap(),
        Created::Exists
    );
    assert_eq!(
        store.create("trials/a.json", b"first").unwrap(),
        Created::New,
        "a try that meets its own object"
    );
    assert_eq!(store.get("trials/a.json").unwrap().unwrap(), b"first");

    store.put("trials.csv", b"one").unwrap();
    store.put("trials.csv", b"two").unwrap();
    assert_eq!(store.get("trials.csv").unwrap().unwrap(), b"two");
    // Beyond one request's size: it goes up in parts.
    let large: Vec<u8> = (0..17_000_000u32).map(|at| (at % 251) as u8).collect();
    store.put("large.parquet", &large).unwrap();
    assert!(store.get("large.parquet").unwrap().unwrap() == large);

    store.create("trials/b.json", b"{").unwrap();
    let paths = |folder: &str| {
        store
            .list(folder)
            .unwrap()
            .into_iter()
            .map(|entry| entry.path)
            .collect::<Vec<_>>()
    };
    assert_eq!(paths("trials"), ["trials/a.json", "trials/b.json"]);
    let many = ["trials/b.json", "trials/none.json", "trials/a.json"].map(String::from);
    assert_eq!(
        store.get_many(&many).unwrap(),
        [Some(b"{".to_vec()), None, Some(b"first".to_vec())]
    );

    assert_eq!(
        store.set_aside("trials/b.json", b"{").unwrap(),
        "trials/b.json.corrupt-0"
    );
    assert_eq!(
        store.create("trials/b.json", b"[").unwrap(),
        Created::New,
        "its path is free again"
    );
    assert_eq!(
        store.set_aside("trials/b.json", b"[").unwrap(),
        "trials/b.json.corrupt-1"
    );
    assert_eq!(
        paths("trials"),
        [
            "trials/a.json",
            "trials/b.json.corrupt-0",
            "trials/b.json.corrupt-1"
        ]
    );
    store
        .set_aside("trials/a.json", b"what it no longer is")
        .unwrap();
    assert_eq!(
        store.get("trials/a.json").unwrap().unwrap(),
        b"first",
        "another object than the damaged one stays"
    );

    let below = store.below("namespace/name-0a1b2c3d").unwrap();
    assert_eq!(
        below.create("trials/a.json", b"below").unwrap(),
        Created::New
    );
    assert_eq!(below.list("trials").unwrap()[0].path, "trials/a.json");
    assert_eq!(
        store
            .get("namespace/name-0a1b2c3d/trials/a.json")
            .unwrap()
            .unwrap(),
        b"below"
    );
}

#[test]
fn a_store_in_memory_behaves() {
    behave(&Store::in_memory().unwrap());
}
