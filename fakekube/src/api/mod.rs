//! The API server: requests in; objects, lists, watches and refusals out.
//!
//! From the bottom up: `store` keeps versioned objects, `state` adds the kinds; requests and controllers act on it by
//! `write`, `list` and `gc`; `shared` puts a lock, a clock and faults around it; `watch` and `service` answer requests,
//! `show` in the form that they ask for;
//! `server` and `http` are for tests to hold.

mod builtin;
mod cause;
mod clock;
mod faults;
mod finalizers;
mod gc;
mod http;
mod json;
mod kinds;
mod list;
mod refusal;
mod request;
mod schema;
mod selector;
mod server;
mod service;
mod shared;
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
