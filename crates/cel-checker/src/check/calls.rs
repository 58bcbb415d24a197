//! Calls of functions and operators.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{CheckErrorKind, Checker, qualified_name};
use crate::declarations::Overload;
use crate::types::Type;

impl Checker<'_> {
    pub(super) fn call(&mut self, expression: &IdedExpr, call: &CallExpr) -> Type {
        if call.func_name == operators::OPT_SELECT {
            return self.optional_select(expression, call);
        }
        let mut arguments: Vec<Type> = call.args.iter().map(|part| self.check(part)).collect();
        let name = call.func_name.strip_prefix('.').unwrap_or(&call.func_name);
        let Some(target) = &call.target else {
            return self.resolve(expression, call, name, &arguments, false);
        };
        // `a.b.c()` is a function with a qualified name, if there is one, and else a member function.
        if let Some(prefix) = qualified_name(target) {
            let prefix = prefix.strip_prefix('.').unwrap_or(&prefix);
            let qualified = format!("{prefix}.{name}");
            if self.declarations.overloads(&qualified).is_some() {
                return self.resolve(expression, call, &qualified, &arguments, false);
            }
        }
        let target = self.check(target);
        arguments.insert(0, target);
        self.resolve(expression, call, name, &arguments, true)
    }

    fn optional_select(&mut self, expression: &IdedExpr, call: &CallExpr) -> Type {
        let [operand, field] = call.args.as_slice() else {
            let detail = format!("incorrect signature. argument count: {}", call.args.len());
            self.refuse(expression, CheckErrorKind::OptionalSelection { detail });
            return Type::Error;
        };
        let Expr::Literal(LiteralValue::String(name)) = &field.expr else {
            let detail = "the field is not a name".to_owned();
            self.refuse(field, CheckErrorKind::OptionalSelection { detail });
            return Type::Error;
        };
        let of = self.field(expression, operand, name.inner(), true);
        self.overloads
            .insert(expression.id, vec!["select_optional_field".into()]);
        self.substitutions.substitute(&of, false)
    }

    /// The type of a call's result, from the overloads that accept the arguments.
    fn resolve(
        &mut self,
        expression: &IdedExpr,
        call: &CallExpr,
        name: &str,
        arguments: &[Type],
        is_member: bool,
    ) -> Type {
        let declarations = self.declarations;
        let Some(overloads) = declarations.overloads(name) else {
            self.refuse(expression, CheckErrorKind::undeclared(&call.func_name));
            return Type::Error;
        };
        if [operators::LOGICAL_AND, operators::LOGICAL_OR].contains(&name) {
            return self.logical(expression, call, overloads, arguments);
        }
        let mut result: Option<Type> = None;
        let mut accepted = Vec::new();
        let of_style = overloads.iter().filter(|overload| {
            overload.is_member == is_member && !declarations.is_disabled(overload)
        });
        for overload in of_style {
            let (parameters, returned) = self.instantiate(overload);
            let from: Vec<&Type> = arguments.iter().collect();
            let to: Vec<&Type> = parameters.iter().collect();
            if !self.substitutions.are_assignable(&from, &to) {
                continue;
            }
            accepted.push(overload.id.clone());
            let returned = self.substitutions.substitute(&returned, false);
            result = Some(match result {
                None => returned,
                Some(Type::Dyn) => Type::Dyn,
                Some(result) if result == returned => result,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let arguments = arguments.iter();
            let arguments = arguments.map(|part| self.substitutions.substitute(part, true));
            let error = CheckErrorKind::NoOverload {
                function: name.to_owned(),
                arguments: arguments.collect(),
                is_member,
            };
            self.refuse(expression, error);
            return Type::Error;
        };
        self.overloads.insert(expression.id, accepted);
        result
    }

    /// `&&` and `||`: each operand that is not boolean is an error of its own.
    fn logical(
        &mut self,
        expression: &IdedExpr,
        call: &CallExpr,
        overloads: &[Overload],
        arguments: &[Type],
    ) -> Type {
        let mut result = Type::Bool;
        for (part, argument) in call.args.iter().zip(arguments) {
            if !self.substitutions.is_assignable(argument, &Type::Bool) {
                self.refuse(part, CheckErrorKind::mismatch(&Type::Bool, argument));
                result = Type::Error;
            }
        }
        let ids = overloads.iter().map(|overload| overload.id.clone());
        self.overloads.insert(expression.id, ids.collect());
        result
    }

    /// The parameters and the result of an overload, with fresh type parameters.
    fn instantiate(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let fresh: Vec<Type> = overload
            .type_parameters
            .iter()
            .map(|_| self.fresh_parameter())
            .collect();
        let parameters = overload.parameters.iter();
        let parameters = parameters.map(|of| renamed(of, overload, &fresh));
        (
            parameters.collect(),
            renamed(&overload.result, overload, &fresh),
        )
    }
}

/// A type of an overload, with its type parameters replaced.
fn renamed(of: &Type, overload: &Overload, fresh: &[Type]) -> Type {
    match of {
        Type::Parameter(name) => {
            let mut all = overload.type_parameters.iter().zip(fresh);
            let replaced = all.find(|(parameter, _)| *parameter == name);
            replaced.map_or_else(|| of.clone(), |(_, fresh)| fresh.clone())
        }
        other => other.with_parameters(|part| renamed(part, overload, fresh)),
    }
}
