//! A whole sweep on one machine: its spec, models and design ([`prepared`]), what its store holds already ([`stored`]),
//! whether its [`endpoints`] answer, what comes next ([`steps`]), and the [`run`] itself: who measures ([`executor`]), how each trial comes by its record
//! ([`settle`]), the [`ceilings`] that it is judged by, and what is seen meanwhile ([`progress`], [`estimate`],
//! [`levels`]); what it [`costs`], beforehand; at its end the tables ([`tables`], [`collect`]).

pub mod ceilings;
pub mod collect;
pub mod costs;
pub mod endpoints;
pub mod estimate;
pub mod executor;
pub mod levels;
pub mod prepared;
pub mod progress;
pub mod run;
pub mod settle;
pub mod steps;
pub mod stored;
pub mod tables;
