//! Assignability of types, which binds type parameters (as cel-go, `checker/types.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Type;

/// The types that are bound to type parameters.
#[derive(Debug, Default)]
pub(crate) struct Substitutions {
    bound: BTreeMap<Arc<str>, Type>,
    /// The previous bindings, so that a failed attempt is undone.
    log: Vec<(Arc<str>, Option<Type>)>,
}

impl Substitutions {
    /// Whether a value of the first type can be used where the second type is expected. Type parameters of both are
    /// bound if it can, and are unchanged otherwise.
    pub(crate) fn is_assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.are_assignable(&[from], &[to])
    }

    /// As [`is_assignable`](Self::is_assignable), for each pair of two lists of the same length.
    pub(crate) fn are_assignable(&mut self, from: &[&Type], to: &[&Type]) -> bool {
        self.log.clear();
        let assignable = from.len() == to.len() && self.assign_all(from, to);
        if !assignable {
            while let Some((name, previous)) = self.log.pop() {
                match previous {
                    Some(previous) => self.bound.insert(name, previous),
                    None => self.bound.remove(&name),
                };
            }
        }
        assignable
    }

    /// The type with its bound parameters replaced. With `open_is_dyn`, other parameters become dyn.
    pub(crate) fn substitute(&self, of: &Type, open_is_dyn: bool) -> Type {
        match of {
            Type::Parameter(name) => match self.bound.get(name) {
                Some(bound) => self.substitute(bound, open_is_dyn),
                None if open_is_dyn => Type::Dyn,
                None => of.clone(),
            },
            other => other.with_parameters(|part| self.substitute(part, open_is_dyn)),
        }
    }

    fn bind(&mut self, name: &Arc<str>, to: Type) {
        let previous = self.bound.insert(name.clone(), to);
        self.log.push((name.clone(), previous));
    }

    fn assign_all(&mut self, from: &[&Type], to: &[&Type]) -> bool {
        from.len() == to.len() && from.iter().zip(to).all(|(from, to)| self.assign(from, to))
    }

    fn assign(&mut self, from: &Type, to: &Type) -> bool {
        if let Type::Parameter(name) = to {
            match self.bind_to(name, from) {
                Binding::Agrees => return true,
                Binding::Contradicts => return false,
                Binding::Recursive => {}
            }
        }
        if let Type::Parameter(name) = from {
            return matches!(self.bind_to(name, to), Binding::Agrees);
        }
        if from.is_dyn_or_error() || to.is_dyn_or_error() {
            return true;
        }
        if *from == Type::Null {
            return to.is_nullable();
        }
        if *to == Type::Null {
            return from.is_nullable();
        }
        match (from.unwrapped(), to.unwrapped()) {
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(_), Type::List(_)) | (Type::Map(..), Type::Map(..)) => {
                self.assign_all(&from.parameters(), &to.parameters())
            }
            (Type::Opaque(one, _), Type::Opaque(other, _)) => {
                one == other && self.assign_all(&from.parameters(), &to.parameters())
            }
            (one, other) => one == other,
        }
    }

    /// Binds a parameter to a type, or compares the type with an earlier binding.
    fn bind_to(&mut self, name: &Arc<str>, other: &Type) -> Binding {
        if matches!(other, Type::Parameter(same) if same == name) {
            return Binding::Agrees;
        }
        if let Some(bound) = self.bound.get(name).cloned() {
            if *other == bound {
                return Binding::Agrees;
            }
            if !self.assign(other, &bound) {
                return Binding::Contradicts;
            }
            let general = most_general(other, &bound);
            if !self.refers_to(general, name) {
                self.bind(name, general.clone());
            }
            return Binding::Agrees;
        }
        if self.refers_to(other, name) {
            return Binding::Recursive;
        }
        self.bind(name, other.clone());
        Binding::Agrees
    }

    /// Whether a parameter occurs in a type.
    fn refers_to(&self, within: &Type, name: &Arc<str>) -> bool {
        match within {
            Type::Parameter(inner) if inner == name => true,
            Type::Parameter(inner) => self
                .bound
                .get(inner)
                .is_some_and(|bound| self.refers_to(bound, name)),
            other => other
                .parameters()
                .into_iter()
                .any(|part| self.refers_to(part, name)),
        }
    }
}

/// The result of the attempt to bind a type parameter.
enum Binding {
    Agrees,
    /// The parameter is bound to another type.
    Contradicts,
    /// The parameter occurs in the type.
    Recursive,
}

/// The more general of two types of which one is assignable to the other.
pub(crate) fn most_general<'t>(one: &'t Type, other: &'t Type) -> &'t Type {
    if is_equal_or_less_specific(one, other) {
        one
    } else {
        other
    }
}

fn is_equal_or_less_specific(one: &Type, other: &Type) -> bool {
    if matches!(one, Type::Dyn | Type::Parameter(_)) {
        return true;
    }
    if matches!(other, Type::Dyn | Type::Parameter(_)) {
        return false;
    }
    match (one.unwrapped(), other.unwrapped()) {
        (Type::Type(_), Type::Type(_)) => true,
        (Type::List(_), Type::List(_)) | (Type::Map(..), Type::Map(..)) => {
            all_less_specific(one, other)
        }
        (Type::Opaque(name, _), Type::Opaque(same, _)) => {
            name == same && all_less_specific(one, other)
        }
        (one, other) => one == other,
    }
}

fn all_less_specific(one: &Type, other: &Type) -> bool {
    let (ones, others) = (one.parameters(), other.parameters());
    ones.len() == others.len()
        && ones
            .into_iter()
            .zip(others)
            .all(|(one, other)| is_equal_or_less_specific(one, other))
}
