//! The files of a collected sweep, as they come through a pipe: each a line of JSON with name, size and SHA-256, and then
//! its bytes. The first is the manifest, and everything else is what it lists; a last line tells a whole pack from one that
//! was cut.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read, Write},
};

use inferbench_crds::layout::MANIFEST;
use inferbench_results::{
    key::sha256_hex,
    manifest::{FileEntry, Manifest},
};

use crate::store::Store;

/// The use that is made of the name and the bytes of each file.
pub type Take<'a> = dyn FnMut(&str, Vec<u8>) -> Result<(), String> + 'a;

/// The last line.
const END: &str = "end";
/// The most bytes that are believed of one file.
const MOST_BYTES: u64 = 4 << 30;

/// Gives the manifest of a store and then all files that it lists, one after the other.
///
/// # Errors
/// Where the store cannot be read or lacks one of them; or whatever `take` returns.
pub fn files(store: &Store, take: &mut Take<'_>) -> Result<(), String> {
    let read = |name: &str| {
        let bytes = store.get(name).map_err(|error| error.to_string())?;
        bytes.ok_or_else(|| format!("{}: {name} is missing", store.location()))
    };
    let bytes = read(MANIFEST)?;
    let manifest = parse(&bytes)?;
    take(MANIFEST, bytes)?;
    for file in &manifest.files {
        take(&file.name, read(&file.name)?)?;
    }
    Ok(())
}

fn parse(manifest: &[u8]) -> Result<Manifest, String> {
    serde_json::from_slice(manifest).map_err(|error| format!("{MANIFEST}: {error}"))
}

/// Writes what [`files`] gives.
///
/// # Errors
/// Those of [`files`], or where it cannot be written.
pub fn write(store: &Store, out: &mut dyn Write) -> Result<(), String> {
    let broken = |error: io::Error| format!("the pack cannot be written: {error}");
    files(store, &mut |name, bytes| {
        let entry = FileEntry::of(name, &bytes);
        let line = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
        writeln!(out, "{line}").map_err(broken)?;
        out.write_all(&bytes).map_err(broken)
    })?;
    writeln!(out, "{END}")
        .and_then(|()| out.flush())
        .map_err(broken)
}

/// Reads what [`write()`] has written.
///
/// # Errors
/// Where it is cut short or is no pack; or whatever `take` returns.
pub fn read(from: &mut dyn BufRead, take: &mut Take<'_>) -> Result<(), String> {
    let broken =
        |what: &dyn std::fmt::Display| format!("what the pod sends is no whole pack: {what}");
    loop {
        let mut line = String::new();
        from.read_line(&mut line).map_err(|error| broken(&error))?;
        match line.trim_end() {
            END => return Ok(()),
            "" => return Err(broken(&"it ends early")),
            line => {
                let entry: FileEntry =
                    serde_json::from_str(line).map_err(|error| broken(&error))?;
                if entry.bytes > MOST_BYTES {
                    return Err(broken(&format!("{} has {} bytes", entry.name, entry.bytes)));
                }
                let mut bytes = Vec::new();
                let taken = from.take(entry.bytes).read_to_end(&mut bytes);
                if taken.map_err(|error| broken(&error))? as u64 != entry.bytes {
                    return Err(broken(&format!("{} ends early", entry.name)));
                }
                take(&entry.name, bytes)?;
            }
        }
    }
}

/// Puts the files of a pack into a folder, each as the manifest has it, and the manifest last.
#[derive(Debug)]
pub struct Receiver<'a> {
    out: &'a Store,
    manifest_sha256: &'a str,
    manifest: Vec<u8>,
    missing: BTreeMap<String, FileEntry>,
}

impl<'a> Receiver<'a> {
    /// One for a folder, of files whose manifest has this SHA-256; where that is empty, any manifest will do.
    #[must_use]
    pub fn new(out: &'a Store, manifest_sha256: &'a str) -> Self {
        Self {
            out,
            manifest_sha256,
            manifest: Vec::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Takes a file.
    ///
    /// # Errors
    /// Where it is not what the manifest says, or cannot be written.
    pub fn take(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), String> {
        if name == MANIFEST && self.manifest.is_empty() {
            let found = sha256_hex(&bytes);
            if !self.manifest_sha256.is_empty() && found != self.manifest_sha256 {
                return Err(format!(
                    "{MANIFEST} has the SHA-256 {found}, and status.results.sha256 is {}: a collection is under way, or \
                     the files were changed. Try again when ResultsAvailable is True",
                    self.manifest_sha256
                ));
            }
            for file in parse(&bytes)?.files {
                if !is_plain(&file.name) {
                    return Err(format!(
                        "{MANIFEST}: {:?} is no name of a file below its folder",
                        file.name
                    ));
                }
                self.missing.insert(file.name.clone(), file);
            }
            self.manifest = bytes;
            return Ok(());
        }
        let Some(entry) = self.missing.remove(name) else {
            return Err(format!("{name:?} is not in {MANIFEST}"));
        };
        let found = FileEntry::of(name, &bytes);
        if found != entry {
            return Err(format!(
                "{name} has {} bytes with the SHA-256 {}, and {MANIFEST} says {} bytes with {}: it was changed, or a \
                 collection is under way",
                found.bytes, found.sha256, entry.bytes, entry.sha256
            ));
        }
        self.put(name, &bytes)
    }

    /// Ends with the manifest.
    ///
    /// # Errors
    /// Where files are missing, or it cannot be written.
    pub fn finish(self) -> Result<(), String> {
        if self.manifest.is_empty() {
            return Err(format!("{MANIFEST} is missing"));
        }
        if let Some(name) = self.missing.keys().next() {
            return Err(format!("{name} is missing, and {MANIFEST} lists it"));
        }
        self.put(MANIFEST, &self.manifest)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        self.out.put(name, bytes).map_err(|error| error.to_string())
    }
}

/// Whether a name leads to a file below a folder, and nowhere else.
fn is_plain(name: &str) -> bool {
    !name.contains(|c: char| c == '\\' || c.is_control())
        && name
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use inferbench_results::summary::summarize;

    use super::*;

    /// A store with these files and their manifest, whose hash is returned.
    fn store(files: &[(&str, &[u8])]) -> (Store, String) {
        let store = Store::in_memory().unwrap();
        let entries = files.iter().map(|(name, bytes)| FileEntry::of(name, bytes));
        let summary = summarize("sweep", &[], &Default::default());
        let manifest = Manifest::new(&summary, entries.collect(), Vec::new());
        let manifest = serde_json::to_vec(&manifest).unwrap();
        for (name, bytes) in files {
            store.put(name, bytes).unwrap();
        }
        store.put(MANIFEST, &manifest).unwrap();
        (store, sha256_hex(&manifest))
    }

    fn packed(store: &Store) -> Vec<u8> {
        let mut pack = Vec::new();
        write(store, &mut pack).unwrap();
        pack
    }

    fn receive(mut pack: &[u8], sha256: &str) -> Result<Store, String> {
        let out = Store::in_memory().unwrap();
        let mut receiver = Receiver::new(&out, sha256);
        read(&mut pack, &mut |name, bytes| receiver.take(name, bytes))?;
        receiver.finish()?;
        Ok(out)
    }

    const FILES: [(&str, &[u8]); 3] = [
        ("report.html", b"<p>\nend\n"),
        ("trials.csv", b""),
        ("figures/a.svg", b"\x00\xff\n"),
    ];

    #[test]
    fn what_is_packed_arrives() {
        let (from, sha256) = store(&FILES);
        let out = receive(&packed(&from), &sha256).unwrap();
        for (name, bytes) in FILES {
            assert_eq!(out.get(name).unwrap().as_deref(), Some(bytes), "{name}");
        }
        assert_eq!(out.get(MANIFEST).unwrap(), from.get(MANIFEST).unwrap());
        assert!(receive(&packed(&from), "").is_ok());
    }

    #[test]
    fn a_pack_that_is_cut_anywhere_is_refused() {
        let (from, sha256) = store(&FILES);
        let pack = packed(&from);
        for end in 0..pack.len() - 1 {
            assert!(receive(&pack[..end], &sha256).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn what_is_not_as_the_manifest_says_is_refused() {
        let (from, sha256) = store(&FILES);
        let error = receive(&packed(&from), "other").unwrap_err();
        assert!(error.contains("status.results.sha256 is other"), "{error}");
        from.put("trials.csv", b"1").unwrap();
        let error = receive(&packed(&from), &sha256).unwrap_err();
        assert!(error.starts_with("trials.csv has 1 bytes"), "{error}");
        let (missing, sha256) = store(&[("report.html", b"x")]);
        let out = Store::in_memory().unwrap();
        let mut receiver = Receiver::new(&out, &sha256);
        receiver
            .take(MANIFEST, missing.get(MANIFEST).unwrap().unwrap())
            .unwrap();
        assert!(
            receiver
                .take("other", Vec::new())
                .unwrap_err()
                .contains("is not in manifest.json")
        );
        assert!(
            receiver
                .finish()
                .unwrap_err()
                .starts_with("report.html is missing")
        );
        assert_eq!(out.get(MANIFEST).unwrap(), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "../x", "/etc/x", "a//b", "a/../b", ".hidden", "", "a\\b", "a\nb",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("figures/ttft.svg"));
    }
}
