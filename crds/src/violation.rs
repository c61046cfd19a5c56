//! A rule that is broken, and the list of those that were found.

use std::fmt;

/// A rule that a resource breaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The field, as `spec.design.factors.batchSize[2]`.
    pub path: String,
    /// The value and what is allowed, to follow the path and a colon.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The violations found so far.
#[derive(Debug, Default)]
pub struct Found(Vec<Violation>);

impl Found {
    /// One more.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation {
            path: path.into(),
            message: message.into(),
        });
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order in which they were found.
    #[must_use]
    pub fn all(self) -> Vec<Violation> {
        self.0
    }
}

impl Extend<Violation> for Found {
    fn extend<T: IntoIterator<Item = Violation>>(&mut self, more: T) {
        self.0.extend(more);
    }
}
