//! The syntax of `select!`.

use syn::parse::{Parse, ParseStream};
use syn::{Expr, Pat, Token};

/// The branches of `select!`.
pub struct Branches(pub Vec<(Pat, Expr, Expr)>);

impl Parse for Branches {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut branches = Vec::new();
        if input.peek2(Token![;]) {
            input.parse::<syn::Ident>()?;
            input.parse::<Token![;]>()?;
        }
        while !input.is_empty() {
            let (pattern, future) = if input.peek(Token![else]) {
                input.parse::<Token![else]>()?;
                let rest = Pat::Verbatim(Default::default());
                (rest, Expr::Verbatim(Default::default()))
            } else {
                let pattern = Pat::parse_multi(input)?;
                input.parse::<Token![=]>()?;
                (pattern, input.parse()?)
            };
            if input.peek(Token![,]) {
                input.parse::<Token![,]>()?;
                input.parse::<Token![if]>()?;
                input.parse::<Expr>()?;
            }
            input.parse::<Token![=>]>()?;
            branches.push((
                pattern,
                future,
                Expr::parse_with_earlier_boundary_rule(input)?,
            ));
            if input.peek(Token![,]) {
                input.parse::<Token![,]>()?;
            }
        }
        if branches.is_empty() {
            return Err(input.error("no branch"));
        }
        Ok(Self(branches))
    }
}
