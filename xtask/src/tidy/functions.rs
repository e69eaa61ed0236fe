//! Lengths of a file and its functions, measured on the syntax tree. Test modules do not count, nor
//! does a function whose body is one `match`: a table is easier to read whole.

use anyhow::Result;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lengths of one source file.
pub struct Code {
    /// Lines outside test modules.
    pub n_lines: usize,
    /// Its functions, methods included, tables excluded.
    pub functions: Vec<Function>,
}

/// A function and its length.
pub struct Function {
    pub name: String,
    /// From the opening to the closing line of the body.
    pub n_lines: usize,
}

pub fn measure(text: &str) -> Result<Code> {
    let file = syn::parse_file(text)?;
    let mut visitor = Visitor { functions: Vec::new(), n_test_lines: 0 };
    visitor.visit_file(&file);
    let n_lines = text.lines().count().saturating_sub(visitor.n_test_lines);
    Ok(Code { n_lines, functions: visitor.functions })
}

struct Visitor {
    functions: Vec<Function>,
    n_test_lines: usize,
}

fn n_lines(node: &impl Spanned) -> usize {
    let span = node.span();
    span.end().line - span.start().line + 1
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|ident| ident == "test");
        is_cfg_test || attribute.path().is_ident("test")
    })
}

/// Whether the body is one `match`, apart from bindings that take a few lines.
fn is_table(block: &syn::Block) -> bool {
    let Some((last, rest)) = block.stmts.split_last() else { return false };
    let syn::Stmt::Expr(last, _) = last else { return false };
    is_match(last) && rest.iter().map(n_lines).sum::<usize>() <= 10
}

/// A `match`, also as the argument of `Ok` or in an `unsafe` block.
fn is_match(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Match(_) => true,
        syn::Expr::Call(call) => call.args.len() == 1 && is_match(&call.args[0]),
        syn::Expr::Unsafe(block) => is_table(&block.block),
        _ => false,
    }
}

impl Visitor {
    fn add(&mut self, name: &syn::Ident, block: &syn::Block) {
        if !is_table(block) {
            self.functions.push(Function { name: name.to_string(), n_lines: n_lines(block) });
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if is_test(&node.attrs) {
            self.n_test_lines += n_lines(node);
        } else {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        if !is_test(&node.attrs) {
            self.add(&node.sig.ident, &node.block);
            visit::visit_item_fn(self, node);
        }
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.add(&node.sig.ident, &node.block);
        visit::visit_impl_item_fn(self, node);
    }
}

#[cfg(test)]
mod tests {
    use super::measure;

    #[test]
    fn tables_and_tests_do_not_count() {
        let text = "fn a() {\n    b();\n    c();\n}\nfn t(x: u8) {\n    match x {\n        _ => {}\n    }\n}\n\
                    #[cfg(test)]\nmod tests {\n    fn long() {}\n}\n";
        let code = measure(text).expect("parses");
        assert_eq!(code.n_lines, 9);
        assert_eq!(code.functions.len(), 1);
        assert_eq!((code.functions[0].name.as_str(), code.functions[0].n_lines), ("a", 4));
    }
}
