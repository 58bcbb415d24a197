//! Literals of lists, maps and objects.

use std::sync::Arc;

use cel::common::ast::{
    EntryExpr, IdedEntryExpr, IdedExpr, ListExpr, MapExpr, StructExpr, StructFieldExpr,
};

use super::{CheckErrorKind, Checker, position};
use crate::types::{Fields, ObjectType, Type};

impl Checker<'_> {
    pub(super) fn list(&mut self, list: &ListExpr) -> Type {
        let mut element: Option<Type> = None;
        for (index, part) in list.elements.iter().enumerate() {
            let is_optional = list.optional_indices.contains(&index);
            let of = self.part(part, is_optional);
            element = Some(self.join(element, of));
        }
        Type::list(element.unwrap_or_else(|| self.fresh_parameter()))
    }

    pub(super) fn map(&mut self, map: &MapExpr) -> Type {
        let mut types: Option<(Type, Type)> = None;
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                continue;
            };
            let (key, value) = types.unzip();
            let key_type = self.check(&entry.key);
            let key = self.join(key, key_type);
            let value_type = self.part(&entry.value, entry.optional);
            types = Some((key, self.join(value, value_type)));
        }
        let (key, value) =
            types.unwrap_or_else(|| (self.fresh_parameter(), self.fresh_parameter()));
        Type::map(key, value)
    }

    /// The type of a part of a literal; an optional part must be an optional value.
    fn part(&mut self, part: &IdedExpr, is_optional: bool) -> Type {
        let of = self.check(part);
        if !is_optional {
            return of;
        }
        if let Some(value) = of.optional_value() {
            return value.clone();
        }
        if of != Type::Dyn {
            let expected = Type::optional(of.clone());
            self.refuse(part, CheckErrorKind::mismatch(&expected, &of));
        }
        of
    }

    pub(super) fn object(&mut self, expression: &IdedExpr, literal: &StructExpr) -> Type {
        let name = &literal.type_name;
        let declared = name.strip_prefix('.').unwrap_or(name);
        let declared = self.declarations.declared_type(declared).cloned();
        let Some(declared) = declared else {
            self.refuse(expression, CheckErrorKind::undeclared(name));
            return Type::Error;
        };
        let object = match &declared {
            Type::Object(object) => Some(object.clone()),
            _ => {
                let name = name.clone();
                self.refuse(expression, CheckErrorKind::NoMessageType { name });
                None
            }
        };
        for entry in &literal.entries {
            if let EntryExpr::StructField(field) = &entry.expr {
                self.object_field(entry, field, object.as_ref());
            }
        }
        if object.is_some() {
            declared
        } else {
            Type::Error
        }
    }

    fn object_field(
        &mut self,
        entry: &IdedEntryExpr,
        field: &StructFieldExpr,
        object: Option<&Arc<ObjectType>>,
    ) {
        let value = self.check(&field.value);
        let declared = object.and_then(|object| match &object.fields {
            Fields::Known(fields) => fields.get(&field.field).cloned(),
            Fields::Hidden => None,
        });
        let offset = position::of_entry(entry, self.source);
        if declared.is_none() {
            let name = field.field.clone();
            self.refuse_at(entry.id, offset, CheckErrorKind::UndefinedField { name });
        }
        let declared = declared.unwrap_or(Type::Error);
        let value = match value.optional_value() {
            Some(inner) if field.optional => inner.clone(),
            None if field.optional && value != Type::Dyn => {
                let expected = Type::optional(value.clone());
                self.refuse(&field.value, CheckErrorKind::mismatch(&expected, &value));
                value
            }
            _ => value,
        };
        if !self.substitutions.is_assignable(&declared, &value) {
            let error = CheckErrorKind::FieldType {
                name: field.field.clone(),
                declared,
                value,
            };
            self.refuse_at(entry.id, offset, error);
        }
    }
}
