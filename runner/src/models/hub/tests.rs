//! The client against servers on this machine: a Hub, and a CDN on another port, which is another host to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    sync::{Arc, Mutex},
};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{
    super::hex,
    cache::{INDEX, lacking},
    settings::{ENDPOINT, bearer, endpoint},
    *,
};

const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";
const OTHER: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &[u8] = b"{\"model_type\": \"gpt2\"}";
/// The name of a blob that git keeps itself: a SHA-1, which nobody checks.
const CONFIG_ETAG: &str = "10c66461e4c109db5a2196bff4bb59be30396ed8";
/// Longer than what one read of a socket brings.
static WEIGHTS: [u8; 300_000] = [7; 300_000];

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Clone, Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection ends after this much of the body.
    cut: Option<usize>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            body,
            ..Self::default()
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server that answers as a closure says, and remembers what it was asked.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                // Whoever asks may leave before the end of an answer.
                std::thread::spawn(move || {
                    let _ = respond(&stream.unwrap(), &*answer, &log);
                });
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests for a method and the end of a path.
    fn count(&self, method: &str, path: &str) -> usize {
        let asked = |request: &&Request| request.method == method && request.path.ends_with(path);
        self.seen().iter().filter(asked).count()
    }
}

fn respond(
    stream: &TcpStream,
    answer: &dyn Fn(&Request) -> Reply,
    log: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut headers = BTreeMap::new();
    for line in lines {
        match line?.split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.into()),
            None => break,
        };
    }
    let request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        headers,
    };
    log.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", reply.status);
    let length = |(name, _): &(&str, String)| *name == "Content-Length";
    if !reply.headers.iter().any(length) {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        let end = reply.cut.unwrap_or(reply.body.len());
        stream.write_all(&reply.body[..end])?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Bytes that were sent arrive before the connection is gone.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A file of a large file storage, in ranges if asked.
fn content(request: &Request, body: &[u8]) -> Reply {
    let from = request
        .header("range")
        .map(|range| range.trim_start_matches("bytes=").trim_end_matches('-'));
    match from.map(|from| from.parse::<usize>().unwrap()) {
        Some(from) => Reply::new(206, &body[from..]).with(
            "Content-Range",
            format!("bytes {from}-{}/{}", body.len() - 1, body.len()),
        ),
        None => Reply::new(200, body),
    }
}

fn cdn() -> Server {
    Server::new(|request| content(request, &WEIGHTS))
}

/// The answer of a Hub that has one model; its large files lie at `cdn`.
fn answer(request: &Request, cdn: &str) -> Reply {
    match request.path.as_str() {
        "/api/models/o/m/revision/main" | "/api/models/o/m/revision/feature%2Fx" => info(COMMIT),
        path if path == format!("/api/models/o/m/revision/{COMMIT}") => info(COMMIT),
        path if path == format!("/api/models/o/m/revision/{OTHER}") => info(OTHER),
        "/api/models/o/none/revision/main" => {
            Reply::new(404, "{}").with("X-Error-Code", "RepoNotFound")
        }
        path if path.starts_with("/api/models/o/m/") => {
            Reply::new(404, "{}").with("X-Error-Code", "RevisionNotFound")
        }
        path if path.ends_with("/config.json") && path.starts_with("/o/") => {
            // To the canonical name of the repository first, as the Hub does.
            Reply::new(307, "").with("Location", path.replace("/o/", "/Owner/"))
        }
        path if path.ends_with("/config.json") => {
            Reply::new(200, CONFIG).with("ETag", format!("W/\"{CONFIG_ETAG}\""))
        }
        path if path.ends_with("/model.safetensors") => Reply::new(302, "elsewhere")
            .with("ETag", "\"of-the-redirect\"")
            .with("X-Linked-ETag", format!("\"{}\"", sha256(&WEIGHTS)))
            .with("X-Linked-Size", WEIGHTS.len().to_string())
            .with("Location", format!("{cdn}/signed?key=secret")),
        _ => Reply::new(404, "{}").with("X-Error-Code", "EntryNotFound"),
    }
}

fn info(commit: &str) -> Reply {
    let files = [
        "model.safetensors",
        ".gitattributes",
        "config.json",
        "onnx/model.safetensors",
        "pytorch_model.bin",
    ];
    let siblings = files.map(|name| serde_json::json!({"rfilename": name}));
    let info = serde_json::json!({"id": "o/m", "sha": commit, "siblings": siblings});
    Reply::new(200, info.to_string())
}

fn hub_over(cdn: &Server) -> Server {
    let cdn = cdn.url.clone();
    Server::new(move |request| answer(request, &cdn))
}

fn settings(url: &str, cache: &TempDir) -> Settings {
    Settings {
        endpoint: endpoint(url).unwrap(),
        token: bearer("hf_secret").unwrap(),
        cache: cache.path().into(),
        offline: false,
        pause: Duration::from_millis(1),
    }
}

fn client(server: &Server, cache: &TempDir) -> Hub {
    Hub::new(settings(&server.url, cache)).unwrap()
}

/// A client whose server is gone.
fn cut_off(cache: &TempDir) -> Hub {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    Hub::new(settings(&url, cache)).unwrap()
}

fn offline(cache: &TempDir) -> Hub {
    let offline = Settings {
        offline: true,
        ..settings(ENDPOINT, cache)
    };
    Hub::new(offline).unwrap()
}

/// The files below a folder, as paths from it; of links, where they lead.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            match fs::read_link(&path) {
                Ok(target) => found.push(format!("{name} -> {}", target.display())),
                Err(_) if path.is_dir() => folders.push(path),
                Err(_) => found.push(name),
            }
        }
    }
    found.sort();
    found
}

/// A cache as huggingface_hub leaves it.
fn cached(files: &[(&str, &str, &[u8])]) -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--o--m");
    let snapshot = model.join("snapshots").join(COMMIT);
    for folder in [&model.join("blobs"), &model.join("refs"), &snapshot] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(model.join("refs/main"), COMMIT).unwrap();
    for (name, etag, bytes) in files {
        fs::write(model.join("blobs").join(etag), bytes).unwrap();
        symlink(format!("../../blobs/{etag}"), snapshot.join(name)).unwrap();
    }
    cache
}

#[test]
fn a_model_is_laid_out_as_huggingface_hub_does_it_and_loaded_once() {
    let (cdn, cache) = (cdn(), tempfile::tempdir().unwrap());
    let hub = hub_over(&cdn);
    let snapshot = client(&hub, &cache).snapshot("o/m", "main", true).unwrap();
    assert_eq!(snapshot.commit, COMMIT);
    assert_eq!(
        fs::read(snapshot.folder.join("config.json")).unwrap(),
        CONFIG
    );
    assert_eq!(
        fs::read(snapshot.folder.join("model.safetensors")).unwrap(),
        WEIGHTS
    );
    let sha256 = sha256(&WEIGHTS);
    let mut expected = [
        format!(".locks/models--o--m/{CONFIG_ETAG}.lock"),
        format!(".locks/models--o--m/{sha256}.lock"),
        format!("models--o--m/blobs/{CONFIG_ETAG}"),
        format!("models--o--m/blobs/{sha256}"),
        "models--o--m/refs/main".into(),
        format!("models--o--m/snapshots/{COMMIT}/config.json -> ../../blobs/{CONFIG_ETAG}"),
        format!("models--o--m/snapshots/{COMMIT}/model.safetensors -> ../../blobs/{sha256}"),
    ];
    expected.sort();
    assert_eq!(tree(cache.path()), expected);
    assert_eq!(
        fs::read_to_string(cache.path().join("models--o--m/refs/main")).unwrap(),
        COMMIT
    );
    // Again: the list alone is asked for. Of another commit with the same contents, their descriptions too.
    client(&hub, &cache).snapshot("o/m", COMMIT, true).unwrap();
    client(&hub, &cache).snapshot("o/m", OTHER, true).unwrap();
    assert_eq!(cdn.seen().len(), 1);
    assert_eq!(hub.count("GET", "/config.json"), 2, "once, and redirected");
    assert_eq!(
        offline(&cache).snapshot("o/m", "main", true).unwrap(),
        snapshot
    );
}

#[test]
fn a_branch_may_have_a_slash_and_a_configuration_comes_alone() {
    let (cdn, cache) = (cdn(), tempfile::tempdir().unwrap());
    let hub = hub_over(&cdn);
    let snapshot = client(&hub, &cache).snapshot("o/m", "feature/x", false);
    assert_eq!(tree(&snapshot.unwrap().folder).len(), 1);
    let reference = cache.path().join("models--o--m/refs/feature/x");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    // A commit whose configuration is here needs no network.
    let asked = hub.seen().len();
    client(&hub, &cache).snapshot("o/m", COMMIT, false).unwrap();
    assert_eq!((hub.seen().len(), cdn.seen().len()), (asked, 0));
    // A name that leads out of the cache is not written.
    Cache::new(cache.path(), "o/m").remember("../../x", COMMIT);
    assert!(!cache.path().join("x").exists());
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (cdn, cache) = (cdn(), tempfile::tempdir().unwrap());
    let hub = hub_over(&cdn);
    client(&hub, &cache).snapshot("o/m", "main", true).unwrap();
    let seen = hub.seen();
    let sent = |request: &Request| request.header("authorization") == Some("Bearer hf_secret");
    assert!(!seen.is_empty() && seen.iter().all(sent), "{seen:?}");
    let seen = cdn.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].path, "/signed?key=secret");
}

#[test]
fn a_download_that_was_cut_goes_on_where_it_ended() {
    let cache = tempfile::tempdir().unwrap();
    let cdn = Server::new(|request| Reply {
        cut: request.header("range").is_none().then_some(123_456),
        ..content(request, &WEIGHTS)
    });
    let hub = hub_over(&cdn);
    let snapshot = client(&hub, &cache).snapshot("o/m", "main", true).unwrap();
    let file = fs::read(snapshot.folder.join("model.safetensors")).unwrap();
    assert_eq!(file, WEIGHTS);
    let ranges: Vec<_> = cdn.seen().into_iter().map(|r| r.headers).collect();
    assert_eq!(ranges.len(), 2);
    let from = ranges[1]["range"].trim_start_matches("bytes=");
    let from: usize = from.trim_end_matches('-').parse().unwrap();
    assert!((1..=123_456).contains(&from), "{from}");
}

/// Another process has left it, whole, in part, or as something else.
#[test]
fn what_lies_there_in_part_is_used_as_far_as_it_is_right() {
    let mut wrong = WEIGHTS[..1000].to_vec();
    wrong[500] = 8;
    let cases: [(&[u8], &[Option<&str>]); 4] = [
        (&WEIGHTS, &[]),
        (&WEIGHTS[..1000], &[Some("bytes=1000-")]),
        (&wrong, &[Some("bytes=1000-"), None]),
        (&[0; 400_000], &[None]),
    ];
    for (partial, ranges) in cases {
        let (cdn, cache) = (cdn(), cached(&[]));
        let blobs = cache.path().join("models--o--m/blobs");
        let blob = blobs.join(sha256(&WEIGHTS));
        fs::write(blob.with_added_extension("incomplete"), partial).unwrap();
        let hub = hub_over(&cdn);
        client(&hub, &cache).snapshot("o/m", COMMIT, true).unwrap();
        let seen = cdn.seen();
        let seen: Vec<_> = seen.iter().map(|request| request.header("range")).collect();
        assert_eq!(seen, ranges, "after {} bytes", partial.len());
        assert_eq!(fs::read(&blob).unwrap(), WEIGHTS);
        assert!(!blob.with_added_extension("incomplete").exists());
    }
}

/// A server that knows no ranges sends all of it again.
#[test]
fn a_whole_file_in_answer_to_a_range_replaces_the_part() {
    let cdn = Server::new(|_| Reply::new(200, WEIGHTS));
    let (hub, cache) = (hub_over(&cdn), cached(&[]));
    let blob = cache
        .path()
        .join("models--o--m/blobs")
        .join(sha256(&WEIGHTS));
    fs::write(blob.with_added_extension("incomplete"), &WEIGHTS[..1000]).unwrap();
    client(&hub, &cache).snapshot("o/m", COMMIT, true).unwrap();
    assert_eq!(fs::read(&blob).unwrap(), WEIGHTS);
    assert_eq!(cdn.seen().len(), 1);
}

#[test]
fn other_bytes_than_those_of_the_hub_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let cdn = Server::new(|_| Reply::new(200, [8; WEIGHTS.len()]));
    let error = client(&hub_over(&cdn), &cache).snapshot("o/m", "main", true);
    let error = error.unwrap_err();
    let expected = format!(
        "model.safetensors arrived damaged: it has SHA-256 {}, and should have SHA-256 {}",
        sha256(&[8; WEIGHTS.len()]),
        sha256(&WEIGHTS)
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.is_transient());
    let left = tree(&cache.path().join("models--o--m/blobs"));
    assert_eq!(left, [CONFIG_ETAG]);
    let short = Server::new(|_| Reply::new(200, &WEIGHTS[1..]));
    let error = client(&hub_over(&short), &cache).snapshot("o/m", "main", true);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("it ended after 299999 of 300000 bytes"),
        "{error}"
    );
    assert!(
        !error.contains("secret"),
        "a signed URL stays secret: {error}"
    );
}

#[test]
fn what_is_not_there_is_named_and_asked_for_once() {
    let (cdn, cache) = (cdn(), tempfile::tempdir().unwrap());
    let hub = hub_over(&cdn);
    let error = |repo: &str, revision: &str| {
        let error = client(&hub, &cache).snapshot(repo, revision, true);
        let error = error.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        error.to_string()
    };
    assert_eq!(error("o/m", "v9"), "Revision not found: v9 in o/m");
    assert_eq!(error("o/none", "main"), "Repository not found: o/none");
    assert_eq!(hub.seen().len(), 2);
    let lost = Server::new(|request| match request.path.contains("/resolve/") {
        true => Reply::new(404, "{}").with("X-Error-Code", "EntryNotFound"),
        false => info(COMMIT),
    });
    let error = client(&lost, &cache).snapshot("o/m", "main", false);
    assert_eq!(
        error.unwrap_err().to_string(),
        "Entry not found: config.json in o/m"
    );
    let nameless = Server::new(|_| Reply::new(200, r#"{"siblings": []}"#));
    let error = client(&nameless, &cache).snapshot("o/m", "main", false);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the Hub names no commit for main"
    );
}

#[test]
fn a_gated_model_is_refused_with_advice() {
    for (status, word) in [(401, "Authentication required"), (403, "Forbidden")] {
        let server = Server::new(move |request| match request.path.contains("/resolve/") {
            true => Reply::new(status, "")
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", "Access to model o/m is restricted")
                .with("X-Request-Id", "r-1"),
            false => info(COMMIT),
        });
        let cache = tempfile::tempdir().unwrap();
        let error = client(&server, &cache).snapshot("o/m", "main", false);
        let error = error.unwrap_err();
        assert!(!error.is_transient());
        let url = &server.url;
        assert_eq!(
            error.to_string(),
            format!(
                "{word}: Access to model o/m is restricted (url={url}/o/m/resolve/{COMMIT}/config.json, \
                 request_id=r-1, error_code=GatedRepo); is the model gated? Accept its licence on the Hub and set \
                 HF_TOKEN"
            )
        );
        assert_eq!(server.count("HEAD", "/config.json"), 1);
    }
}

#[test]
fn a_hub_that_stumbles_is_asked_again() {
    let cdn = cdn();
    let (url, known) = (cdn.url.clone(), Mutex::new(BTreeSet::new()));
    let hub = Server::new(move |request| {
        let first = (request.method.clone(), request.path.clone());
        match known.lock().unwrap().insert(first) {
            true => Reply::new(503, ""),
            false => answer(request, &url),
        }
    });
    let cache = tempfile::tempdir().unwrap();
    client(&hub, &cache).snapshot("o/m", "main", false).unwrap();
    let down = Server::new(|_| Reply::new(503, r#"{"error": "overloaded"}"#));
    let error = client(&down, &cache).snapshot("o/m", "main", true);
    let error = error.unwrap_err();
    assert!(error.is_transient());
    let url = &down.url;
    assert_eq!(
        error.to_string(),
        format!(
            "HTTP error: 503 Service Unavailable: overloaded (url={url}/api/models/o/m/revision/main)"
        )
    );
    assert_eq!(down.seen().len(), TRIES as usize);
}

#[test]
fn pauses_double_or_are_those_that_the_server_asks_for() {
    let second = Duration::from_secs(1);
    let none = HubError::Request("cut".into());
    for (failed, least) in [(1, 1), (2, 2), (3, 4)] {
        let pause = pause(second, failed, &none);
        assert!(pause >= second * least && pause <= second * least * 3 / 2);
    }
    assert_eq!(pause(second, 30, &none), LONGEST_PAUSE);
    let url = endpoint(ENDPOINT).unwrap();
    let headers =
        HeaderMap::from_iter([(reqwest::header::RETRY_AFTER, HeaderValue::from_static("7"))]);
    let limited = HubError::of(StatusCode::TOO_MANY_REQUESTS, &url, &headers, b"", |_| {
        HubError::RepoNotFound(String::new())
    });
    assert!(limited.is_transient());
    assert_eq!(pause(second, 1, &limited), 7 * second);
}

#[test]
fn redirects_that_do_not_end_are_an_error() {
    let server = Server::new(|request| Reply::new(302, "").with("Location", request.path.clone()));
    let cache = tempfile::tempdir().unwrap();
    let error = client(&server, &cache).snapshot("o/m", "main", true);
    assert_eq!(
        error.unwrap_err().to_string(),
        format!(
            "Hub response missing required data: an end of its redirects ({}/api/models/o/m/revision/main)",
            server.url
        )
    );
}

#[test]
fn what_huggingface_hub_has_loaded_serves_without_a_network() {
    let cache = cached(&[
        ("config.json", CONFIG_ETAG, CONFIG),
        ("model.safetensors", &sha256(&WEIGHTS), &WEIGHTS),
    ]);
    let here = Snapshot {
        commit: COMMIT.into(),
        folder: cache.path().join("models--o--m/snapshots").join(COMMIT),
    };
    for revision in ["main", COMMIT] {
        assert_eq!(
            offline(&cache).snapshot("o/m", revision, true).unwrap(),
            here
        );
    }
    assert_eq!(cut_off(&cache).snapshot("o/m", COMMIT, true).unwrap(), here);
    // The Hub alone can say what a branch is today.
    let error = cut_off(&cache).snapshot("o/m", "main", true).unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().starts_with("HTTP request error: "));
    let error = offline(&cache).snapshot("o/m", "v9", true).unwrap_err();
    assert!(!error.is_transient());
    assert_eq!(
        error.to_string(),
        format!(
            "File not found in local cache: {}/models--o--m/refs/v9",
            cache.path().display()
        )
    );
    // With a tokenizer nothing is missing, and nobody is asked.
    symlink("config.json", here.folder.join("tokenizer.json")).unwrap();
    let server = Server::new(|_| Reply::new(500, ""));
    assert_eq!(
        client(&server, &cache)
            .snapshot("o/m", COMMIT, true)
            .unwrap(),
        here
    );
    assert!(server.seen().is_empty());
}

#[test]
fn a_model_that_is_here_in_part_does_not_pass_for_all_of_it() {
    let config: (&str, &str, &[u8]) = ("config.json", CONFIG_ETAG, CONFIG);
    let lacks = |files: &[(&str, &str, &[u8])], weights| {
        let cache = cached(files);
        lacking(
            &cache.path().join("models--o--m/snapshots").join(COMMIT),
            weights,
        )
    };
    let index = br#"{"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
    let shard = "model-00001-of-00002.safetensors";
    assert_eq!(lacks(&[], false).as_deref(), Some("config.json"));
    assert_eq!(lacks(&[config], false), None);
    assert_eq!(lacks(&[config], true).as_deref(), Some("model.safetensors"));
    assert_eq!(
        lacks(&[config, (shard, "1", b"")], true).as_deref(),
        Some(INDEX)
    );
    let first: [(&str, &str, &[u8]); 3] =
        [config, (INDEX, "1", index), ("a.safetensors", "2", b"")];
    assert_eq!(lacks(&first, true).as_deref(), Some("b.safetensors"));
    let [config, index, a] = first;
    let both = [config, index, a, ("b.safetensors", "3", b"" as &[u8])];
    assert_eq!(lacks(&both, true), None);
    assert_eq!(
        lacks(&[config, (INDEX, "1", b"{")], true).as_deref(),
        Some(INDEX)
    );
}

#[test]
fn processes_at_the_same_time_load_a_file_once() {
    let (cdn, cache) = (cdn(), tempfile::tempdir().unwrap());
    let hub = hub_over(&cdn);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| client(&hub, &cache).snapshot("o/m", "main", true).unwrap());
        }
    });
    assert_eq!(cdn.seen().len(), 1);
}

#[test]
fn answers_describe_the_file_behind_them() {
    let head = |headers: &[(&'static str, &'static str)], redirected| {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Head::of(&HeaderMap::from_iter(headers), redirected)
    };
    let etag = |etag: &str, size| {
        Some(Head {
            etag: etag.into(),
            size,
            is_sha256: false,
        })
    };
    assert_eq!(
        head(&[("etag", "\"a-1\""), ("content-length", "5")], false),
        etag("a-1", Some(5))
    );
    // The length of a redirect's own body says nothing.
    assert_eq!(
        head(&[("etag", "W/\"a\""), ("content-length", "5")], true),
        etag("a", None)
    );
    assert_eq!(
        head(
            &[
                ("etag", "\"b\""),
                ("x-linked-etag", "\"a\""),
                ("x-linked-size", "9"),
                ("content-length", "5")
            ],
            true
        ),
        etag("a", Some(9))
    );
    for bad in ["\"\"", "\"../../x\"", "\"a/b\"", "\"a.lock\""] {
        assert_eq!(head(&[("etag", bad)], false), None, "{bad}");
    }
    assert_eq!(head(&[("content-length", "5")], false), None);
}

#[test]
fn settings_have_the_names_and_the_order_of_huggingface_hub() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    fs::write(folder.path().join("token"), "hf_file\n").unwrap();
    let read = |variables: &[(&str, &str)]| {
        let variables = variables.to_vec();
        Settings::read(&move |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
    let cache = |variables: &[(&str, &str)]| {
        let cache = read(variables).unwrap().cache;
        cache.to_str().unwrap().to_owned()
    };
    let user = ("HOME", "/u");
    assert_eq!(cache(&[user]), "/u/.cache/huggingface/hub");
    assert_eq!(
        cache(&[user, ("XDG_CACHE_HOME", "/x")]),
        "/x/huggingface/hub"
    );
    let both = [user, ("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")];
    assert_eq!(cache(&both), "/u/hf/hub");
    assert_eq!(cache(&[user, ("HF_HUB_CACHE", "/c"), both[1]]), "/c");
    assert_eq!(cache(&[user, ("HUGGINGFACE_HUB_CACHE", "/d")]), "/d");
    assert_eq!(
        cache(&[user, ("HF_HUB_CACHE", "")]),
        "/u/.cache/huggingface/hub"
    );

    let token = |variables: &[(&str, &str)]| {
        let token = read(variables).unwrap().token?;
        Some(token.to_str().unwrap().to_owned())
    };
    let file = ("HF_HOME", home);
    assert_eq!(token(&[user]), None);
    assert_eq!(token(&[file]).unwrap(), "Bearer hf_file");
    assert_eq!(
        token(&[file, ("HF_TOKEN", " hf_a\n")]).unwrap(),
        "Bearer hf_a"
    );
    let path = format!("{home}/token");
    assert_eq!(
        token(&[user, ("HF_TOKEN_PATH", &path)]).unwrap(),
        "Bearer hf_file"
    );
    let disabled = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    assert_eq!(token(&[file, disabled]), None);
    let error = read(&[("HF_TOKEN", "hf\nsecret")]).err().unwrap();
    assert_eq!(
        error.to_string(),
        "HF_TOKEN has control characters; a token is one line of text"
    );

    assert!(!read(&[user]).unwrap().offline);
    assert!(!read(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    assert!(read(&[("HF_HUB_OFFLINE", "yes")]).unwrap().offline);

    let hub = |value| Hub::new(read(&[("HF_ENDPOINT", value)]).unwrap()).unwrap();
    let url = hub("https://proxy/hf/").url(["api", "models"], "o/m", ["revision", "a/b"]);
    assert_eq!(
        url.as_str(),
        "https://proxy/hf/api/models/o/m/revision/a%2Fb"
    );
    let error = read(&[("HF_ENDPOINT", "hub.example")]).err().unwrap();
    assert_eq!(
        error.to_string(),
        "HF_ENDPOINT \"hub.example\" is no URL; one that begins with http:// or https:// is allowed"
    );
}
