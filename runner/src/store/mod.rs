//! Where results lie: a local folder, S3, Google Cloud Storage or Azure by URL, all behind the same few calls.
//!
//! Two promises matter. A record is created once and never overwritten ([`Store::create`]); and whatever can be read
//! was written whole: objects appear at once, and a folder's files are written beside, synced and then linked or
//! renamed into place, directory entry synced too, so that neither a kill nor a power loss leaves half a file under
//! its name. (What a disk loses all the same, the reader of a record finds out.)

mod address;
mod error;
pub mod records;

use std::{
    io::Write as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, TryStreamExt as _};
use inferbench_crds::contract::StoreAt;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, WriteMultipart,
    memory::InMemory, path::Path,
};
use tokio::runtime::Runtime;

pub use self::{
    address::{Address, Scheme, StoreOptions},
    error::StoreError,
};

/// Requests in flight at a time when many objects are read.
const CONCURRENCY: usize = 64;
/// Larger objects go up in parts, each with time-out and retries of its own.
const SINGLE_PUT: usize = 16 << 20;
const PART: usize = 8 << 20;
/// The object that [`Store::probe`] leaves behind.
const PROBE: &str = ".inferbench-create-once-probe";

/// The result of a [`Store::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The store holds these bytes: written now, or by an earlier try whose answer was lost.
    New,
    /// The store held other bytes, and still does.
    Exists,
}

/// One object of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the store's root, with slashes.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// An open store. Calls block; any thread may make them, but none that runs an async executor.
#[derive(Debug)]
pub struct Store {
    client: Arc<dyn ObjectStore>,
    /// The same store, but with few retries: for the first contact, where a mistake should show at once.
    hasty: Arc<dyn ObjectStore>,
    root: Path,
    shown: String,
    folder: Option<PathBuf>,
    runtime: Runtime,
}

impl Store {
    /// Opens a folder, which is made where it is missing, or a URL: `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix`, `file:///folder`. Credentials come from the environment, under the names that the
    /// clouds' own tools use. No request is sent yet: see [`Store::probe`].
    ///
    /// # Errors
    /// Where the address is none of these, the folder cannot be made, or the environment's settings are refused.
    pub fn open(target: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let address = Address::parse(target)?;
        let shown = address.to_string();
        if let Address::Folder(folder) = &address {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder {
                folder: folder.clone(),
                source,
            })?;
        }
        let connect = |hasty| address.connect(options, hasty);
        let mut store = Self::over(connect(false)?, connect(true)?, &shown)?;
        store.root = address.root();
        store.folder = address.folder().map(FilePath::to_path_buf);
        Ok(store)
    }

    /// Opens what a request or a command line names; otherwise as [`Store::open`].
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn at(at: &StoreAt) -> Result<Self, StoreError> {
        let options = StoreOptions {
            endpoint: at.endpoint.clone(),
            region: at.region.clone(),
            settings: Vec::new(),
        };
        Self::open(&at.target, &options)
    }

    /// A store in memory, for tests.
    ///
    /// # Errors
    /// Where no runtime can be started.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::from_client(Arc::new(InMemory::new()), "memory")
    }

    /// A store over any client; `shown` names it in messages.
    ///
    /// # Errors
    /// Where no runtime can be started.
    pub fn from_client(client: Arc<dyn ObjectStore>, shown: &str) -> Result<Self, StoreError> {
        Self::over(Arc::clone(&client), client, shown)
    }

    fn over(
        client: Arc<dyn ObjectStore>,
        hasty: Arc<dyn ObjectStore>,
        shown: &str,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StoreError::Runtime)?;
        Ok(Self {
            client,
            hasty,
            root: Path::default(),
            shown: shown.into(),
            folder: None,
            runtime,
        })
    }

    /// The same store below a prefix, such as `namespace/name-uid`.
    ///
    /// # Errors
    /// Where no runtime can be started.
    pub fn below(&self, prefix: &str) -> Result<Self, StoreError> {
        let mut store = Self::over(
            Arc::clone(&self.client),
            Arc::clone(&self.hasty),
            &self.place(prefix),
        )?;
        store.root = self.path(prefix);
        store.folder = self.folder.as_ref().map(|folder| folder.join(prefix));
        Ok(store)
    }

    /// The URL or folder, as messages name it.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.shown
    }

    /// The folder, where the store is one.
    #[must_use]
    pub fn folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    /// Makes sure that the store creates once: writes one probe object twice, and the second time has to be refused.
    /// The probe object stays, since two processes may probe at the same time.
    ///
    /// # Errors
    /// [`StoreError::Overwrites`], or where the store cannot be reached or written to.
    pub fn probe(&self) -> Result<(), StoreError> {
        let probe = |text: &'static str| {
            let path = self.path(PROBE);
            let put = async {
                self.hasty
                    .put_opts(&path, text.into(), PutOptions::from(PutMode::Create))
                    .await
            };
            match self.runtime.block_on(put) {
                Ok(_) => Ok(Created::New),
                Err(Error::AlreadyExists { .. }) => Ok(Created::Exists),
                Err(source) => Err(self.failed("create", PROBE, source)),
            }
        };
        probe(
            "inferbench made this object to see that the store never overwrites what was created.\n",
        )?;
        match probe("This store overwrites: results could be lost.\n")? {
            Created::Exists => Ok(()),
            Created::New => Err(StoreError::Overwrites {
                place: self.place(PROBE),
            }),
        }
    }

    /// Creates an object, unless there is one at this path already; that one is never touched.
    ///
    /// # Errors
    /// Where the store cannot be reached or written to.
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let at = self.path(path);
        let payload = PutPayload::from(bytes.to_vec());
        let put = self
            .client
            .put_opts(&at, payload, PutOptions::from(PutMode::Create));
        match self.runtime.block_on(put) {
            Ok(_) => Ok(Created::New),
            // A request whose answer was lost is sent again by the client, and then meets its own object.
            Err(Error::AlreadyExists { .. }) => match self.get(path)? {
                Some(stored) if stored == bytes => Ok(Created::New),
                _ => Ok(Created::Exists),
            },
            Err(source) => Err(self.failed("create", path, source)),
        }
    }

    /// Writes an object whole, in place of any other at this path.
    ///
    /// # Errors
    /// Where the store cannot be reached or written to.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let at = self.path(path);
        let put = async {
            if bytes.len() <= SINGLE_PUT {
                self.client
                    .put(&at, PutPayload::from(bytes.to_vec()))
                    .await?;
            } else {
                let mut parts = WriteMultipart::new_with_chunk_size(
                    self.client.put_multipart(&at).await?,
                    PART,
                );
                for part in bytes.chunks(PART) {
                    parts.wait_for_capacity(4).await?;
                    parts.write(part);
                }
                parts.finish().await?;
            }
            Ok(())
        };
        self.runtime
            .block_on(put)
            .map_err(|source| self.failed("write", path, source))
    }

    /// An object's bytes; `None` where there is none.
    ///
    /// # Errors
    /// Where the store cannot be reached or read.
    pub fn get(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.runtime.block_on(self.read(path))
    }

    /// Writes an object's bytes to a local file, a part at a time; the file is there only when it is whole.
    ///
    /// # Errors
    /// Where the store cannot be reached or read, the object is missing, or the file cannot be written.
    pub fn download(&self, path: &str, to: &FilePath) -> Result<(), StoreError> {
        let partial = to.with_added_extension("part");
        let local = |source| StoreError::Folder {
            folder: to.to_path_buf(),
            source,
        };
        let download = async {
            let object = self.client.get(&self.path(path)).await;
            let mut bytes = object
                .map_err(|source| self.failed("read", path, source))?
                .into_stream();
            let mut file = std::fs::File::create(&partial).map_err(local)?;
            while let Some(part) = bytes.next().await {
                let part = part.map_err(|source| self.failed("read", path, source))?;
                file.write_all(&part).map_err(local)?;
            }
            file.sync_all().map_err(local)
        };
        self.runtime.block_on(download)?;
        std::fs::rename(&partial, to).map_err(local)
    }

    /// Many objects' bytes, in the order of the paths, read at the same time.
    ///
    /// # Errors
    /// Where the store cannot be reached or read.
    pub fn get_many(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let reads = futures::stream::iter(paths)
            .map(|path| self.read(path))
            .buffered(CONCURRENCY);
        self.runtime.block_on(reads.try_collect())
    }

    /// All objects below a folder of the store, sorted by path; files that a killed writer left are not among them.
    ///
    /// # Errors
    /// Where the store cannot be reached or listed.
    pub fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let below = self.path(folder);
        let list = self.client.list(Some(&below)).map_ok(|object| Entry {
            path: self.relative(&object.location),
            bytes: object.size,
        });
        let mut entries: Vec<Entry> = self
            .runtime
            .block_on(list.try_collect())
            .map_err(|source| self.failed("list", folder, source))?;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Moves a damaged object out of the way, to `<path>.corrupt-<number>`, so that its path can be created anew;
    /// returns the new path. Nothing moves where the object has become another one than `damaged`.
    ///
    /// # Errors
    /// Where the store cannot be reached, written to or deleted from.
    pub fn set_aside(&self, path: &str, damaged: &[u8]) -> Result<String, StoreError> {
        let mut number = 0;
        let aside = loop {
            let aside = format!("{path}.corrupt-{number}");
            if self.create(&aside, damaged)? == Created::New {
                break aside;
            }
            number += 1;
        };
        if self.get(path)?.as_deref() == Some(damaged) {
            let at = self.path(path);
            self.runtime
                .block_on(self.client.delete(&at))
                .map_err(|source| self.failed("delete", path, source))?;
        }
        Ok(aside)
    }

    /// Deletes what killed writers left in a local folder (`<name>#<number>`, written but never linked into place)
    /// where it is older than `age`, so that a writer at work keeps its own; returns how many. A store behind a URL
    /// has no such files.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn remove_leftovers(&self, age: Duration) -> Result<usize, StoreError> {
        let Some(root) = &self.folder else {
            return Ok(0);
        };
        let mut removed = 0;
        for folder in [root.clone(), root.join("trials")] {
            let failed = |source| StoreError::Folder {
                folder: folder.clone(),
                source,
            };
            let files = match std::fs::read_dir(&folder) {
                Ok(files) => files,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            for file in files {
                let file = file.map_err(failed)?;
                let old = |time: SystemTime| time.elapsed().is_ok_and(|elapsed| elapsed >= age);
                let is_leftover = file.file_name().to_str().is_some_and(is_leftover);
                if is_leftover
                    && file
                        .metadata()
                        .and_then(|data| data.modified())
                        .is_ok_and(old)
                {
                    removed += usize::from(std::fs::remove_file(file.path()).is_ok());
                }
            }
        }
        Ok(removed)
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = async { self.client.get(&self.path(path)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", path, source)),
        }
    }

    fn path(&self, path: &str) -> Path {
        self.root.parts().chain(Path::from(path).parts()).collect()
    }

    fn relative(&self, path: &Path) -> String {
        let parts: Vec<_> = path
            .prefix_match(&self.root)
            .map(Iterator::collect)
            .unwrap_or_default();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        parts.join("/")
    }

    fn place(&self, path: &str) -> String {
        format!("{}/{path}", self.shown.trim_end_matches('/'))
    }

    fn failed(&self, action: &'static str, path: &str, source: Error) -> StoreError {
        StoreError::failed(action, self.place(path), source)
    }
}

/// Whether a file's name is one that object_store writes under before it links the file into place.
fn is_leftover(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(stem, number)| {
        !stem.is_empty() && !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
    })
}
