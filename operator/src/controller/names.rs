//! Names of the operator's objects, and the labels and annotations that they carry.

/// Who made an object, by `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "inferbench-operator";
/// Label: who manages the object; the operator watches Jobs and pods by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the application.
pub const APP: &str = "app.kubernetes.io/name";
/// Label: the Job's task; see [`Role::as_str`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label: the resource's name.
pub const BENCHMARK: &str = "inferbench.dev/benchmark";
/// Label: the resource's uid, so that a resource that is created anew never takes its namesake's Jobs for its own.
pub const UID: &str = "inferbench.dev/uid";
/// Label: the GPUs of a trial's pod, which is its shape to the scheduler.
pub const GPUS: &str = "inferbench.dev/gpus";
/// Label: the Kueue queue.
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Annotation of a Job: its trials' indices in the order in which they run, separated by commas.
pub const TRIALS: &str = "inferbench.dev/trials";
/// Annotation of a Job: the plan that it was made from.
pub const PLAN: &str = "inferbench.dev/plan";
/// Annotation of a preflight, look or collection: how often it was tried, from 1.
pub const ATTEMPT: &str = "inferbench.dev/attempt";
/// Annotation of a collection: what it collects from; becomes `status.results.inputs`. Of a look: what it looks at.
pub const INPUTS: &str = "inferbench.dev/inputs";
/// Annotation of a pod: what it is asked for; read through the downward API.
pub const REQUESTS: &str = "inferbench.dev/requests";
/// The container that runs `inferbench`.
pub const CONTAINER: &str = "runner";
/// The init container that copies `inferbench` into the pod of a server, whose image is the server's.
pub const INSTALLER: &str = "inferbench-install";
/// The beginning of the names of the operator's volumes.
pub const VOLUME_PREFIX: &str = "inferbench-";

/// The task of a Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It checks the sweep before any GPU is asked for.
    Preflight,
    /// It measures.
    Trial,
    /// It decides between two blocks which combinations run no further.
    Look,
    /// It makes tables and summary.
    Collector,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Preflight, Self::Trial, Self::Look, Self::Collector];

    /// The value of the label `app.kubernetes.io/component`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Trial => "trial",
            Self::Look => "look",
            Self::Collector => "collector",
        }
    }

    /// The role of a label's value.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// The first eight characters of a uid.
#[must_use]
pub fn short(uid: &str) -> &str {
    uid.get(..8).unwrap_or(uid)
}

/// `<name, at most 30 characters>-<uid, 8>-<suffix>`: a DNS label, since the pods of an Indexed Job are called after
/// it. With the suffixes of this file it has at most 60 characters.
fn job(name: &str, uid: &str, suffix: &str) -> String {
    let name: String = name.chars().take(30).collect();
    let name = name.replace('.', "-");
    format!("{}-{}-{suffix}", name.trim_end_matches('-'), short(uid))
}

/// The Job that measures a group of trials is named after the first of them. That one ends with the Job, so that no
/// later Job of the sweep has the same name.
#[must_use]
pub fn trials(name: &str, uid: &str, first: u32) -> String {
    job(name, uid, &base36(first))
}

/// The Job of an attempt at the preflight.
#[must_use]
pub fn preflight(name: &str, uid: &str, attempt: u32) -> String {
    job(name, uid, &format!("preflight-{}", base36(attempt)))
}

/// The Job of an attempt at the look after `blocks` blocks.
#[must_use]
pub fn look(name: &str, uid: &str, blocks: u32, attempt: u32) -> String {
    job(
        name,
        uid,
        &format!("look-{}-{}", base36(blocks), base36(attempt)),
    )
}

/// The Job of an attempt at the collection from `inputs`, which is a hash.
#[must_use]
pub fn collector(name: &str, uid: &str, inputs: &str, attempt: u32) -> String {
    job(
        name,
        uid,
        &format!("collect-{}-{}", short(inputs), base36(attempt)),
    )
}

/// A number in the digits 0 to 9 and a to z.
#[must_use]
pub fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

/// Indices as the annotation [`TRIALS`] has them.
#[must_use]
pub fn write_indices(indices: &[u32]) -> String {
    let texts: Vec<String> = indices.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Indices from the annotation [`TRIALS`]; none where it is no such list.
#[must_use]
pub fn read_indices(text: &str) -> Option<Vec<u32>> {
    text.split(',').map(|index| index.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f1e2d3c-aaaa-bbbb-cccc-000000000000";

    #[test]
    fn names_are_dns_labels_however_the_resource_is_called() {
        let long = "a-name.with-dots.that-is-much-longer-than-thirty-characters.org";
        let names = [
            trials(long, UID, 49_999),
            preflight(long, UID, u32::MAX),
            look(long, UID, 1_000, u32::MAX),
            collector(long, UID, &"f".repeat(64), 1_000_000),
            trials(&format!("{}.x", "a".repeat(29)), UID, 0),
        ];
        for name in &names {
            // Room for the index that the pods of an Indexed Job add.
            assert!(name.len() <= 60, "{name}: {}", name.len());
            assert!(
                name.bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'),
                "{name}"
            );
            assert!(!name.contains("--"), "{name}");
        }
        assert_eq!(names[0], "a-name-with-dots-that-is-much-0f1e2d3c-12kv");
        assert_eq!(trials("thesis", UID, 0), "thesis-0f1e2d3c-0");
    }

    #[test]
    fn numbers_in_base_36_lead_back() {
        for number in [0, 1, 35, 36, 1_295, 1_296, 49_999, u32::MAX] {
            assert_eq!(u32::from_str_radix(&base36(number), 36), Ok(number));
        }
    }

    #[test]
    fn indices_lead_back() {
        for indices in [vec![7], vec![49_999, 0, 3]] {
            assert_eq!(read_indices(&write_indices(&indices)), Some(indices));
        }
        for bad in ["", "1,", "a", "1 2", "-1"] {
            assert_eq!(read_indices(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn roles_lead_back() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        assert_eq!(Role::parse("operator"), None);
    }
}
