//! The variables, functions and types that an expression may use.

mod extensions;
mod kubernetes;
mod signature;
mod standard;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use signature::Table;
pub use signature::{Overload, parse_type};

use crate::types::Type;

type Functions = BTreeMap<String, Vec<Overload>>;

static STANDARD: LazyLock<Declarations> = LazyLock::new(|| {
    let mut functions = Functions::new();
    add_table(&mut functions, standard::FUNCTIONS);
    add_table(&mut functions, standard::COMPARISONS);
    add_table(&mut functions, standard::OPTIONALS);
    Declarations {
        functions: Arc::new(functions),
        variables: BTreeMap::new(),
        types: Arc::new(standard::types()),
        has_homogeneous_literals: false,
        compares_numeric_types: true,
    }
});

static KUBERNETES: LazyLock<Declarations> = LazyLock::new(|| {
    let mut all = STANDARD.clone();
    let functions = Arc::make_mut(&mut all.functions);
    for table in [
        extensions::STRINGS,
        extensions::LISTS,
        extensions::SETS,
        extensions::MATH,
        extensions::ENCODERS,
        extensions::COMPREHENSIONS,
        kubernetes::REGEX,
        kubernetes::LISTS,
        kubernetes::URLS,
        kubernetes::QUANTITIES,
        kubernetes::ADDRESSES,
        kubernetes::FORMATS,
        kubernetes::VERSIONS,
        kubernetes::AUTHORIZER,
        kubernetes::JSON_PATCH,
    ] {
        add_table(functions, table);
    }
    for (function, overloads) in extensions::of_each_comparable_type() {
        functions.entry(function).or_default().extend(overloads);
    }
    for (function, overloads) in kubernetes::of_each_comparable_type() {
        functions.entry(function).or_default().extend(overloads);
    }
    Arc::make_mut(&mut all.types).extend(kubernetes::types());
    all.has_homogeneous_literals = true;
    all
});

fn add_table(functions: &mut Functions, table: &Table) {
    for (function, overloads) in table {
        let overloads = overloads.iter().filter_map(|(id, signature)| {
            let overload = signature::parse(id, signature);
            debug_assert!(overload.is_some(), "{id}: {signature}");
            overload
        });
        functions
            .entry((*function).to_owned())
            .or_default()
            .extend(overloads);
    }
}

/// The variables, functions and types that an expression may use.
#[derive(Clone, Debug)]
pub struct Declarations {
    functions: Arc<Functions>,
    variables: BTreeMap<String, Type>,
    types: Arc<BTreeMap<String, Type>>,
    has_homogeneous_literals: bool,
    compares_numeric_types: bool,
}

impl Declarations {
    /// The language's functions, with optional values.
    pub fn standard() -> Self {
        STANDARD.clone()
    }

    /// The functions of Kubernetes 1.36, and `math`, `base64` and `jsonpatch` in every expression.
    pub fn kubernetes() -> Self {
        KUBERNETES.clone()
    }

    /// Whether all elements of a list literal, and all keys and all values of a map literal, must have one type.
    #[must_use]
    pub fn with_homogeneous_literals(mut self, homogeneous: bool) -> Self {
        self.has_homogeneous_literals = homogeneous;
        self
    }

    /// Whether numbers of different types can be ordered: `1 < 1.5`.
    #[must_use]
    pub fn with_numeric_comparisons(mut self, compares: bool) -> Self {
        self.compares_numeric_types = compares;
        self
    }

    /// Declares a variable. The name can be qualified: `authorizer.requestResource`.
    #[must_use]
    pub fn with_variable(mut self, name: &str, of: Type) -> Self {
        self.variables.insert(name.to_owned(), of);
        self
    }

    /// Declares a type by its name, for literals and for comparisons of types.
    #[must_use]
    pub fn with_type(mut self, name: &str, declared: Type) -> Self {
        Arc::make_mut(&mut self.types).insert(name.to_owned(), declared);
        self
    }

    /// Declares an overload of a function by its signature: `(list(A), int) -> A`, or `string.(int) -> string` for a
    /// member function. Returns `None` for an invalid signature.
    pub fn with_function(mut self, name: &str, id: &str, signature: &str) -> Option<Self> {
        let overload = signature::parse(id, signature)?;
        Arc::make_mut(&mut self.functions)
            .entry(name.to_owned())
            .or_default()
            .push(overload);
        Some(self)
    }

    pub(crate) fn has_homogeneous_literals(&self) -> bool {
        self.has_homogeneous_literals
    }

    /// The type of a global variable or of the name of a type.
    pub(crate) fn global(&self, name: &str) -> Option<Type> {
        if let Some(of) = self.variables.get(name) {
            return Some(of.clone());
        }
        self.declared_type(name).cloned().map(Type::type_of)
    }

    /// The type with this name.
    pub(crate) fn declared_type(&self, name: &str) -> Option<&Type> {
        self.types.get(name)
    }

    pub(crate) fn overloads(&self, function: &str) -> Option<&[Overload]> {
        self.functions.get(function).map(Vec::as_slice)
    }

    /// Whether an overload is not part of this environment.
    pub(crate) fn is_disabled(&self, overload: &Overload) -> bool {
        let compares = |overload: &Overload| {
            standard::COMPARISONS
                .iter()
                .flat_map(|(_, overloads)| *overloads)
                .any(|(id, _)| *id == &*overload.id)
        };
        !self.compares_numeric_types && compares(overload)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn overloads_of_a_function_have_different_identifiers() {
        for (function, overloads) in &*KUBERNETES.functions {
            let ids: BTreeSet<_> = overloads.iter().map(|overload| &overload.id).collect();
            assert_eq!(ids.len(), overloads.len(), "{function}");
        }
    }

    #[test]
    fn a_signature_that_is_malformed_is_refused() {
        for signature in [
            "",
            "int",
            "(int)",
            "(int -> int",
            "() ->",
            "int.() -> list(",
            "() -> int int",
        ] {
            let declarations = Declarations::standard();
            assert!(
                declarations.with_function("f", "f", signature).is_none(),
                "{signature}"
            );
        }
    }
}
