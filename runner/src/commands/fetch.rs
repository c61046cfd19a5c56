//! `inferbench fetch`: a sweep's report and tables out of a cluster; and `inferbench pack`, which hands them over inside of
//! it.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use inferbench_crds::{InferenceBenchmark, contract::StoreAt, layout::REPORT};

use crate::{
    cli::{FetchArgs, PackArgs},
    fetch::{
        kubectl::{Kubectl, KubectlError},
        pack::{self, Receiver, Take},
        place::{self, Place},
        pod::{self, CONTAINER, Standing},
    },
    machine,
    process::{exit::Exit, print_error, signals},
    store::{Store, StoreOptions},
};

/// The resources, as no other API's can be meant.
const RESOURCES: &str = "inferencebenchmarks.inferbench.dev";
/// The file that tells a folder of fetched files from others.
const MARK: &str = ".inferbench-fetch";
/// How often a pod that is not ready yet is looked at.
const LOOK_UP: Duration = Duration::from_secs(1);

/// Brings a sweep's report and tables here.
pub fn run(args: &FetchArgs) -> Exit {
    signals::listen();
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.resource.as_str().into());
    if let Err(why) = free(&out) {
        print_error(&why);
        return Exit::BadInput;
    }
    match fetch(args, &out) {
        Ok(files) => {
            println!(
                "{}: {REPORT} and {} more files",
                out.display(),
                files.saturating_sub(1)
            );
            Exit::Ok
        }
        Err(KubectlError::Interrupted) => Exit::Interrupted,
        Err(error) => {
            print_error(&error);
            Exit::Failed
        }
    }
}

/// Refuses a folder that holds anything but what was fetched before, whole or in part.
fn free(out: &Path) -> Result<(), String> {
    let used = out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if used && !out.join(MARK).is_file() {
        return Err(format!(
            "{}: the folder holds files, but none that were fetched ({MARK} is missing); choose another with --out",
            out.display()
        ));
    }
    Ok(())
}

/// How many files there are.
fn fetch(args: &FetchArgs, out: &Path) -> Result<usize, KubectlError> {
    let mut kubectl = Kubectl {
        context: args.context.clone(),
        namespace: args.namespace.clone(),
    };
    let resource = kubectl.get(RESOURCES, &args.resource)?;
    let resource: InferenceBenchmark = serde_json::from_value(resource)
        .map_err(|error| KubectlError::Refused(format!("ib/{}: {error}", args.resource)))?;
    let place = Place::of(&resource).map_err(KubectlError::Refused)?;
    kubectl.namespace = Some(place.namespace.clone());
    let refused = |error: &dyn std::fmt::Display| KubectlError::Refused(error.to_string());
    let store = Store::open(&out.to_string_lossy(), &StoreOptions::default())
        .map_err(|error| refused(&error))?;
    let from = format!("{}\n", place.store.target);
    store
        .put(MARK, from.as_bytes())
        .map_err(|error| refused(&error))?;
    let mut receiver = Receiver::new(&store, &place.manifest_sha256);
    let mut files = 0;
    let mut take = |name: &str, bytes: Vec<u8>| {
        files += 1;
        receiver.take(name, bytes)
    };
    if args.by_pod || place.is_inside() {
        let image = args.image.as_ref().or(place.image.as_ref());
        let image = image
            .ok_or_else(|| refused(&"the runner's image is not known; name it with --image"))?;
        by_pod(&kubectl, &place, image, args.timeout.std(), &mut take)?;
    } else {
        let from = open(&kubectl, &place)?;
        pack::files(&from, &mut take).map_err(KubectlError::Refused)?;
    }
    receiver.finish().map_err(KubectlError::Refused)?;
    Ok(files)
}

/// Opens the store from here, with the settings of its Secret.
fn open(kubectl: &Kubectl, place: &Place) -> Result<Store, KubectlError> {
    let settings = match &place.secret {
        Some(name) => {
            let secret = kubectl.get("secret", name)?;
            let settings = place::settings(&secret);
            settings.map_err(|error| KubectlError::Refused(format!("secret {name}: {error}")))?
        }
        None => Vec::new(),
    };
    let options = StoreOptions {
        endpoint: place.store.endpoint.clone(),
        region: place.store.region.clone(),
        settings,
    };
    Store::open(&place.store.target, &options)
        .map_err(|error| KubectlError::Refused(error.to_string()))
}

/// A pod that is deleted in any case.
struct Pod<'a> {
    kubectl: &'a Kubectl,
    name: String,
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.kubectl.delete_pod(&self.name) {
            print_error(&format!(
                "{error}; delete it yourself: kubectl delete pod {} --namespace {}",
                self.name,
                self.kubectl.namespace.as_deref().unwrap_or_default()
            ));
        }
    }
}

/// Lets a pod hand the files over.
fn by_pod(
    kubectl: &Kubectl,
    place: &Place,
    image: &str,
    patience: Duration,
    take: &mut Take<'_>,
) -> Result<(), KubectlError> {
    let pod = Pod {
        kubectl,
        name: format!("inferbench-fetch-{}", machine::process_id(&place.uid)),
    };
    eprintln!("pod {} of {image} sends them …", pod.name);
    kubectl.create(&pod::pod(place, image, &pod.name))?;
    wait(kubectl, &pod.name, patience)?;
    let StoreAt {
        target,
        endpoint,
        region,
    } = &place.store;
    let mut command = vec!["inferbench", "pack", target];
    for (option, value) in [("--endpoint", endpoint), ("--region", region)] {
        command.extend(value.iter().flat_map(|value| [option, value.as_str()]));
    }
    let mut read = |out: &mut dyn io::BufRead| pack::read(out, take);
    kubectl.exec(&pod.name, CONTAINER, &command, &mut read)
}

/// Waits for a pod to be ready.
fn wait(kubectl: &Kubectl, name: &str, patience: Duration) -> Result<(), KubectlError> {
    let deadline = Instant::now() + patience;
    loop {
        let why = match pod::standing(&kubectl.get("pod", name)?) {
            Standing::Ready => return Ok(()),
            Standing::Broken(why) => {
                return Err(KubectlError::Refused(format!(
                    "pod {name} cannot start: {why}"
                )));
            }
            Standing::Waiting(why) => why,
        };
        if Instant::now() >= deadline {
            return Err(KubectlError::Refused(format!(
                "pod {name} was not ready within {} s (--timeout): {why}. A volume that one node at a time may use is free \
                 once the sweep's pods have ended",
                patience.as_secs()
            )));
        }
        std::thread::sleep(LOOK_UP);
        if signals::interrupted() {
            return Err(KubectlError::Interrupted);
        }
    }
}

/// Hands over the files of a sweep on standard output, or waits to be asked.
pub fn pack(args: &PackArgs) -> Exit {
    signals::exit_on_signal();
    let Some(target) = &args.target else {
        std::thread::sleep(Duration::from_secs(args.idle));
        return Exit::Ok;
    };
    let at = StoreAt {
        target: target.clone(),
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
    };
    if !target.contains("://") && !Path::new(target).is_dir() {
        print_error(&format!("{target}: is no folder"));
        return Exit::BadInput;
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let written = Store::at(&at)
        .map_err(|error| error.to_string())
        .and_then(|store| pack::write(&store, &mut out));
    match written.and_then(|()| out.flush().map_err(|error| error.to_string())) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            print_error(&error);
            Exit::Failed
        }
    }
}
