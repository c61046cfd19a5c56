//! The place of a field in an object, as messages write it: `spec.factors.model[0].name`.

/// A path. Nothing is put together until it is shown.
#[derive(Default)]
pub(super) struct Path<'a>(Option<(&'a Path<'a>, Step<'a>)>);

pub(super) enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

impl Path<'_> {
    pub const fn is_root(&self) -> bool {
        self.0.is_none()
    }

    pub const fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path(Some((self, Step::Field(name))))
    }

    pub const fn item(&self, index: usize) -> Path<'_> {
        Path(Some((self, Step::Item(index))))
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((parent, step)) = &self.0 else {
            return Ok(());
        };
        parent.fmt(f)?;
        match step {
            Step::Field(name) if parent.is_root() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}
