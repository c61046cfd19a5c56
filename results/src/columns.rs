//! How a table is defined: once, as a struct whose fields are its columns. Header and cells of the CSV, the typed
//! schema of the Parquet file and the documentation all derive from that one definition (see `table!`).

use std::{borrow::Cow, sync::Arc};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The unit of its values; empty where they have none.
    pub unit: &'static str,
    /// The type of its values.
    pub kind: Kind,
    /// Whether a value may be empty.
    pub nullable: bool,
    /// Its description.
    pub doc: Cow<'static, str>,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Not applicable, or unknown.
    Empty,
    /// See [`Kind::Text`].
    Text(Cow<'a, str>),
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
pub trait TableRow: Sized {
    /// The table's name, that of its files without their endings.
    const NAME: &'static str;
    /// A description of one row.
    const ROW: &'static str;
    /// The columns of every such table, in order.
    const COLUMNS: &'static [Column];

    /// The columns that a table of these rows has after them.
    #[must_use]
    fn further_columns(_rows: &[Self]) -> Vec<Column> {
        Vec::new()
    }

    /// The row's values, in the order of [`Self::COLUMNS`].
    fn cells(&self) -> Vec<Cell<'_>>;

    /// The value in one of the further columns.
    fn further_cell(&self, _column: &Column) -> Cell<'_> {
        Cell::Empty
    }

    /// All columns of a table of these rows, in order.
    #[must_use]
    fn columns(rows: &[Self]) -> Vec<Column> {
        let mut columns = Self::COLUMNS.to_vec();
        columns.extend(Self::further_columns(rows));
        columns
    }

    /// The row's values, in the order of [`Self::columns`], of which `further` are the further ones.
    fn all_cells(&self, further: &[Column]) -> Vec<Cell<'_>> {
        let mut cells = self.cells();
        cells.extend(further.iter().map(|column| self.further_cell(column)));
        cells
    }
}

impl Field for String {
    const KIND: Kind = Kind::Text;

    fn cell(&self) -> Cell<'_> {
        Cell::Text(Cow::Borrowed(self))
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Field for Arc<str> {
    const KIND: Kind = Kind::Text;

    fn cell(&self) -> Cell<'_> {
        Cell::Text(Cow::Borrowed(self))
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Field for Outcome {
    const KIND: Kind = Kind::Text;

    fn cell(&self) -> Cell<'_> {
        Cell::Text(self.as_str().into())
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

/// Defines a table: `name` of its files, a description of one row, and a struct of columns, each with its unit (`""`
/// for none), type and doc comment. A field after `..` holds what has columns in some tables only: its type says which.
macro_rules! table {
    (
        $(#[$meta:meta])*
        pub struct $table:ident = $name:literal, $row:literal {
            $($(#[doc = $doc:literal])+ $unit:literal $field:ident: $type:ty,)*
            $(.. $(#[doc = $further_doc:literal])+ $further:ident: $further_type:ty,)?
        }
    ) => {
        $(#[$meta])*
        pub struct $table {
            $($(#[doc = $doc])+ pub $field: $type,)*
            $($(#[doc = $further_doc])+ pub $further: $further_type,)?
        }

        impl $crate::columns::TableRow for $table {
            const NAME: &'static str = $name;
            const ROW: &'static str = $row;
            const COLUMNS: &'static [$crate::columns::Column] = &[$($crate::columns::Column {
                name: std::borrow::Cow::Borrowed(stringify!($field)),
                unit: $unit,
                kind: <$type as $crate::columns::Field>::KIND,
                nullable: <$type as $crate::columns::Field>::NULLABLE,
                doc: std::borrow::Cow::Borrowed(concat!($($doc),+).trim_ascii()),
            },)*];

            fn cells(&self) -> Vec<$crate::columns::Cell<'_>> {
                vec![$($crate::columns::Field::cell(&self.$field),)*]
            }

            $(
                fn further_columns(rows: &[Self]) -> Vec<$crate::columns::Column> {
                    <$further_type>::columns(rows.iter().map(|row| &row.$further))
                }

                fn further_cell(&self, column: &$crate::columns::Column) -> $crate::columns::Cell<'_> {
                    self.$further.cell(column)
                }
            )?
        }

        impl $table {
            /// The value of each column by its position.
            #[allow(dead_code)]
            pub(crate) const CELLS: &'static [for<'a> fn(&'a Self) -> $crate::columns::Cell<'a>] =
                &[$(|row| $crate::columns::Field::cell(&row.$field),)*];

            /// Sets the column at a position to the value that a text holds; false where it holds none of its type.
            #[allow(dead_code)]
            pub(crate) const SETTERS: &'static [fn(&mut Self, &str) -> bool] = &[$(|row, text| {
                let value = <$type as $crate::columns::Field>::parse(text);
                value.map(|value| row.$field = value).is_some()
            },)*];

            /// The row that these CSV cells hold, in the order of
            /// [`TableRow::COLUMNS`]($crate::columns::TableRow::COLUMNS).
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
                    $($further: <$further_type>::default(),)?
                })
            }
        }
    };
}

pub(crate) use table;
