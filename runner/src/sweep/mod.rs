//! A whole sweep on one machine: its spec, models and design ([`prepared`]), what its store holds already ([`stored`]),
//! what comes next ([`steps`]), who measures ([`executor`]), what is seen meanwhile ([`progress`], [`estimate`]), and the
//! tables at its end ([`collect`]).

pub mod collect;
pub mod estimate;
pub mod executor;
pub mod prepared;
pub mod progress;
pub mod settle;
pub mod steps;
pub mod stored;
