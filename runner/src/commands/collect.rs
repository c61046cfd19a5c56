//! `inferbench collect`: the tables anew from what is stored.

use super::input::{resource, store_at};
use crate::{
    cli::CollectArgs,
    models::Need,
    pod,
    process::{exit::Exit, print_error},
    store::Store,
    sweep::{
        prepared::Prepared,
        stored::{self, SweepFile},
        tables,
    },
};

/// Collects a sweep that has been run.
pub fn run(args: &CollectArgs) -> Exit {
    let file = match (&args.file, &args.requests) {
        (Some(file), _) => file,
        (None, Some(requests)) => return pod::collection::run(requests),
        (None, None) => return Exit::BadInput,
    };
    let resource = match resource(file) {
        Ok(resource) => resource,
        Err(exit) => return exit,
    };
    let at = store_at(args.out.as_deref(), &resource);
    let result = Store::at(&at).and_then(|store| {
        let (file, _) = SweepFile::read(&store)?;
        let failures = stored::read_failures(&store)?;
        Ok((store, file, failures))
    });
    let (store, file, failures) = match result {
        Ok(found) => found,
        Err(error) => {
            print_error(&error);
            return Exit::Failed;
        }
    };
    if file == SweepFile::default() {
        let place = store.location();
        print_error(&format!(
            "{place}: no sweep has been run into it ({} is missing)",
            stored::SWEEP_FILE
        ));
        return Exit::BadInput;
    }
    let models = &resource.spec.design.factors.model;
    let pinned = |name: &str| {
        let model = models.iter().find(|model| model.name == name)?;
        file.pinned(name, &model.source).map(str::to_owned)
    };
    let collected = Prepared::new(&resource, Need::Revision, &pinned)
        .map_err(|error| error.to_string())
        .and_then(|sweep| {
            let outcomes = tables::of_failures(&sweep, &failures);
            tables::make(&store, &sweep, &outcomes).map_err(|error| error.to_string())
        });
    match collected {
        Ok(collected) => {
            println!(
                "{}: {} rows{}",
                store.location(),
                collected.rows.len(),
                match collected.strangers {
                    0 => String::new(),
                    count => format!("; {count} stored records belong to other levels or settings"),
                }
            );
            Exit::Ok
        }
        Err(message) => {
            print_error(&message);
            Exit::Failed
        }
    }
}
