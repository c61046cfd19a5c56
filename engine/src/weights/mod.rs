//! Where weights come from, and how a rank gets its share of them: [`Source`] gives any rectangle of
//! any tensor, [`Loader`] assembles rectangles into the matrices that the models multiply by.

mod blocks;
pub(crate) mod element;
mod files;
mod finite;
pub(crate) mod gguf;
mod inventory;
mod loader;
mod location;
mod part;
mod random;
mod save;
mod slab;
mod source;

pub(crate) use loader::Loader;
pub use location::Weights;
pub(crate) use part::Part;
pub use save::save;
pub(crate) use source::Source;
