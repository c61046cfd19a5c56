//! The API server: requests in, objects, lists, watches and refusals out.

mod builtin;
mod clock;
mod discovery;
mod faults;
mod fields;
mod gc;
mod http;
mod json;
mod kinds;
mod patch;
mod read;
mod refusal;
mod request;
mod schema;
mod selector;
mod server;
mod service;
mod show;
mod state;
mod store;
mod watch;
mod write;

pub use clock::Clock;
pub use faults::{Call, Counts, Fault, WatchFault};
pub use http::Listening;
pub use request::Verb;
pub use server::FakeKube;
