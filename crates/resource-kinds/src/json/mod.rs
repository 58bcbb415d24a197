//! Objects as JSON: decoding by type, and the parts of an object.

pub mod api_types;
pub(crate) mod decode;
pub(crate) mod object_meta;
pub(crate) mod parts;
