//! A sweep's report and tables, brought out of a cluster: where they lie ([`place`]), the user's own `kubectl` as the way
//! to the cluster ([`kubectl`]), a pod for what only the cluster can reach ([`pod`]), and how files come through a pipe
//! ([`pack`]).

pub mod kubectl;
pub mod pack;
pub mod place;
pub mod pod;
