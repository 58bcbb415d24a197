//! The paths of values in an object.

use std::fmt;

/// The path of a value: a chain from the value to the root of its object. The path costs nothing until it is
/// formatted, as in `spec.containers[0].name`.
#[derive(Clone, Copy, Debug)]
pub enum ValuePath<'p> {
    Root,
    /// A field of an object, or a key of a map.
    Field(&'p ValuePath<'p>, &'p str),
    /// An element of a list, by its index.
    Element(&'p ValuePath<'p>, usize),
}

impl fmt::Display for ValuePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(of, name) => write!(f, "{of}.{name}"),
            Self::Element(of, index) => write!(f, "{of}[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_from_the_root() {
        let spec = ValuePath::Field(&ValuePath::Root, "spec");
        let list = ValuePath::Field(&spec, "containers");
        let element = ValuePath::Element(&list, 1);
        let name = ValuePath::Field(&element, "name");
        assert_eq!(name.to_string(), "spec.containers[1].name");
        assert_eq!(ValuePath::Root.to_string(), "");
    }
}
