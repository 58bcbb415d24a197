//! The functions of expressions, and their costs: those of the language, of cel-go's extensions, and of Kubernetes
//! (k8s.io/apiserver, `pkg/cel/library`).

mod addresses;
mod conversions;
mod encodings;
mod formats;
mod formatting;
mod lists;
pub(crate) mod maps;
mod numbers;
mod optionals;
pub(crate) mod patterns;
mod quantities;
mod texts;
pub mod times;
mod urls;
mod versions;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::call::{Function, METHODS, Style};

/// The functions with one name: global, and member.
type Named = [Option<Function>; 2];

static FUNCTIONS: LazyLock<BTreeMap<&'static str, Named>> = LazyLock::new(|| {
    let tables = [
        addresses::TABLE,
        conversions::TABLE,
        encodings::TABLE,
        formats::TABLE,
        lists::TABLE,
        maps::TABLE,
        numbers::TABLE,
        optionals::TABLE,
        patterns::TABLE,
        quantities::TABLE,
        texts::TABLE,
        times::TABLE,
        urls::TABLE,
        versions::TABLE,
    ];
    let mut functions: BTreeMap<&'static str, Named> = BTreeMap::new();
    for (name, style, body, price) in tables.into_iter().flatten().copied() {
        for is_member in [false, true] {
            let applies = match style {
                Style::Global => !is_member,
                Style::Member => is_member,
                Style::Both => true,
            };
            if applies {
                let function = Function {
                    name,
                    body,
                    price,
                    is_conversion: !is_member && conversions::is_conversion(name),
                };
                let named = functions.entry(name).or_default();
                let previous = named[usize::from(is_member)].replace(function);
                debug_assert!(previous.is_none(), "{name} is declared twice");
            }
        }
    }
    functions
});

/// The function with a name.
pub(crate) fn find(name: &str, is_member: bool) -> Option<&'static Function> {
    let functions: &'static BTreeMap<&'static str, Named> = &FUNCTIONS;
    functions.get(name)?[usize::from(is_member)].as_ref()
}

/// Whether a value of the caller may have a member function with this name.
pub(crate) fn is_method(name: &str) -> bool {
    METHODS.contains(&name)
}
