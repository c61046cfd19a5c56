//! How a table is defined: once, as a struct whose fields are its columns. Header and cells of the CSV, the typed
//! schema of the Parquet file and the documentation all derive from that one definition (see `table!`).

use std::sync::Arc;

use inferbench_crds::outcome::Outcome;
use jiff::Timestamp;

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A signed 64-bit integer.
    Integer,
    /// An unsigned 64-bit integer.
    Unsigned,
    /// A 64-bit float.
    Number,
    /// A list of 32-bit floats.
    Numbers,
    /// True or false.
    Boolean,
    /// A moment, UTC, to the millisecond; RFC 3339 in text.
    Time,
}

/// One column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The unit of its values; empty where they have none.
    pub unit: &'static str,
    /// The type of its values.
    pub kind: Kind,
    /// Whether a value may be empty.
    pub nullable: bool,
    /// Its description.
    pub doc: &'static str,
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Not applicable, or unknown.
    Empty,
    /// See [`Kind::Text`].
    Text(&'a str),
    /// See [`Kind::Integer`].
    Integer(i64),
    /// See [`Kind::Unsigned`].
    Unsigned(u64),
    /// See [`Kind::Number`].
    Number(f64),
    /// See [`Kind::Numbers`].
    Numbers(&'a [f32]),
    /// See [`Kind::Boolean`].
    Boolean(bool),
    /// See [`Kind::Time`].
    Time(Timestamp),
}

/// A type that a column can have.
pub trait Field: Sized {
    /// The type of the column's values.
    const KIND: Kind;
    /// Whether a value may be empty.
    const NULLABLE: bool = false;

    /// The value.
    fn cell(&self) -> Cell<'_>;

    /// The value that a CSV cell holds; `None` where it holds none of this type.
    fn parse(text: &str) -> Option<Self>;
}

/// A table's row.
pub trait Table: Sized {
    /// The table's name, that of its files without their endings.
    const NAME: &'static str;
    /// A description of one row.
    const ROW: &'static str;
    /// Its columns, in order.
    const COLUMNS: &'static [Column];

    /// The row's values, in the order of the columns.
    fn cells(&self) -> Vec<Cell<'_>>;
}

impl Field for String {
    const KIND: Kind = Kind::Text;

    fn cell(&self) -> Cell<'_> {
        Cell::Text(self)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Field for Arc<str> {
    const KIND: Kind = Kind::Text;

    fn cell(&self) -> Cell<'_> {
        Cell::Text(self)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Field for Outcome {
    const KIND: Kind = Kind::Text;

    fn cell(&self) -> Cell<'_> {
        Cell::Text(self.as_str())
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
    }
}

macro_rules! parsed_fields {
    ($($type:ty: $kind:ident($value:ident => $cell:expr);)*) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::$kind;

            fn cell(&self) -> Cell<'_> {
                let $value = *self;
                Cell::$kind($cell)
            }

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

parsed_fields! {
    u32: Integer(value => i64::from(value));
    i64: Integer(value => value);
    u64: Unsigned(value => value);
    f64: Number(value => value);
    bool: Boolean(value => value);
    Timestamp: Time(value => value);
}

impl Field for Vec<f32> {
    const KIND: Kind = Kind::Numbers;

    fn cell(&self) -> Cell<'_> {
        Cell::Numbers(self)
    }

    fn parse(text: &str) -> Option<Self> {
        text.split_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    }
}

impl<T: Field> Field for Option<T> {
    const KIND: Kind = T::KIND;
    const NULLABLE: bool = true;

    fn cell(&self) -> Cell<'_> {
        self.as_ref().map_or(Cell::Empty, T::cell)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(None)
        } else {
            T::parse(text).map(Some)
        }
    }
}

/// Defines a table: `name` of its files, what one row is, and a struct of columns, each with its unit (`""` for none),
/// type and doc comment.
macro_rules! table {
    (
        $(#[$meta:meta])*
        pub struct $table:ident = $name:literal, $row:literal {
            $($(#[doc = $doc:literal])+ $unit:literal $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        pub struct $table {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl $crate::columns::Table for $table {
            const NAME: &'static str = $name;
            const ROW: &'static str = $row;
            const COLUMNS: &'static [$crate::columns::Column] = &[$($crate::columns::Column {
                name: stringify!($field),
                unit: $unit,
                kind: <$type as $crate::columns::Field>::KIND,
                nullable: <$type as $crate::columns::Field>::NULLABLE,
                doc: concat!($($doc),+).trim_ascii(),
            },)*];

            fn cells(&self) -> Vec<$crate::columns::Cell<'_>> {
                vec![$($crate::columns::Field::cell(&self.$field),)*]
            }
        }

        impl $table {
            /// The row that these CSV cells hold, in the order of the columns.
            ///
            /// # Errors
            /// Names the first column whose cell is missing or of another type, with its text.
            #[allow(dead_code)]
            pub(crate) fn parse<'a>(cells: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
                let mut cells = cells.into_iter();
                Ok(Self {
                    $($field: {
                        let text = cells.next().ok_or(concat!(stringify!($field), ": missing"))?;
                        <$type as $crate::columns::Field>::parse(text).ok_or_else(|| {
                            let kind = <$type as $crate::columns::Field>::KIND;
                            format!(concat!(stringify!($field), ": {:?} is not of the type {:?}"), text, kind)
                        })?
                    },)*
                })
            }
        }
    };
}

pub(crate) use table;
