//! The rules of `objectives.workloads`, the mix that the best is sought for.

use super::{join_by, not_a_level};
use crate::{
    factor::{self, Factor},
    spec::InferenceBenchmarkSpec,
    violation::Found,
    workload::Workload,
};

impl Found {
    /// The mix that the best is sought for: workloads of the design, each of them once.
    pub(super) fn workloads(&mut self, spec: &InferenceBenchmarkSpec) {
        let axes = factor::axes(&spec.design.factors);
        let workloads = &spec.objectives.workloads;
        for (index, weighted) in workloads.iter().enumerate() {
            let (path, before) = (format!("spec.objectives.workloads[{index}]"), self.len());
            for (factor, level) in weighted.workload.iter() {
                let Some(axis) = axes.iter().find(|axis| axis.factor == *factor) else {
                    continue;
                };
                let given = factor.row().and_then(|row| row.given);
                let absent = given.is_some_and(|given| !given(&spec.design.factors));
                if !Workload::takes(factor) {
                    let allowed: Vec<Factor> = Workload::factors().collect();
                    self.add(
                        format!("{path}.{factor}"),
                        format!(
                            "{factor} is no factor that a mix may name; allowed are {}",
                            join_by(&allowed, ", ")
                        ),
                    );
                } else if absent {
                    self.add(
                        format!("{path}.{factor}"),
                        format!(
                            "{level} cannot be named, as spec.design.factors.{factor} is absent"
                        ),
                    );
                } else if !axis.levels.contains(level) {
                    self.add(format!("{path}.{factor}"), not_a_level(level, axis));
                }
            }
            let several = axes
                .iter()
                .filter(|axis| Workload::takes(&axis.factor) && axis.levels.len() > 1);
            for axis in several {
                if weighted.workload.get(&axis.factor).is_none() {
                    self.add(
                        format!("{path}.{}", axis.factor),
                        format!(
                            "is required, as the design has several levels: {}",
                            join_by(&axis.levels, ", ")
                        ),
                    );
                }
            }
            // Entries that name all that varies are equal in it or two workloads.
            let same = |other: &usize| {
                axes.iter().all(|axis| {
                    axis.levels.len() < 2
                        || workloads[*other].workload.get(&axis.factor)
                            == weighted.workload.get(&axis.factor)
                })
            };
            if self.len() == before
                && let Some(first) = (0..index).find(same)
            {
                self.add(
                    path,
                    format!("is listed already, as spec.objectives.workloads[{first}]: give it one weight"),
                );
            }
        }
    }
}
