//! What the text of a module says: which names it defines, which it imports, and which it mentions.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Path, UseTree, Visibility};

/// A module as it is written, without those that are in files of their own.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// Names that it defines itself.
    pub(crate) items: BTreeSet<String>,
    /// One for each name of its `use` declarations.
    pub(crate) uses: Vec<Use>,
    /// Paths of the rest of its code, those inside of functions and macros included.
    pub(crate) paths: BTreeSet<Vec<String>>,
    /// `mod x { … }`
    pub(crate) inline: Vec<(String, Text)>,
    /// `mod x;`, each with the value of a `#[path]`.
    pub(crate) files: Vec<(String, Option<String>)>,
}

/// One name of a `use` declaration.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    pub(crate) path: Vec<String>,
    /// What the module calls it; `None`: a glob.
    pub(crate) name: Option<String>,
    pub(crate) is_reexport: bool,
    /// Whether it stands under `#[cfg(test)]`.
    pub(crate) is_for_tests: bool,
}

impl Text {
    pub(crate) fn parse(source: &str) -> syn::Result<Self> {
        Ok(Self::of(&syn::parse_file(source)?.items))
    }

    fn of(items: &[Item]) -> Self {
        let mut text = Text::default();
        items.iter().for_each(|item| text.add(item));
        text
    }

    fn add(&mut self, item: &Item) {
        let attributes = attributes_of(item);
        let is_for_tests = attributes.iter().any(is_cfg_test);
        match item {
            Item::Use(declaration) => self.import(declaration, is_for_tests),
            Item::Mod(module) => self.add_module(module, attributes, is_for_tests),
            _ => {
                self.items.extend(name_of(item));
                self.items.extend(attributes.iter().filter_map(kind_of));
                if !is_for_tests {
                    self.visit_item(item);
                }
            }
        }
    }

    fn add_module(&mut self, module: &ItemMod, attributes: &[Attribute], is_for_tests: bool) {
        let name = module.ident.to_string();
        match &module.content {
            None => self.files.push((name, attributes.iter().find_map(|attribute| value_of(attribute, "path")))),
            Some((_, items)) if !is_for_tests => self.inline.push((name, Text::of(items))),
            Some(_) => {}
        }
    }

    fn import(&mut self, declaration: &ItemUse, is_for_tests: bool) {
        let is_reexport = !matches!(declaration.vis, Visibility::Inherited);
        let mut add = |path: Vec<String>, name| self.uses.push(Use { path, name, is_reexport, is_for_tests });
        flatten(&declaration.tree, &mut Vec::new(), &mut add);
    }

    /// The paths in the arguments of a macro, as far as tokens show them.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.paths.insert(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.paths.insert(std::mem::take(&mut path));
                    self.add_tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.paths.insert(std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.paths.insert(path);
        self.paths.remove(&Vec::new());
    }
}

impl<'ast> Visit<'ast> for Text {
    fn visit_path(&mut self, path: &'ast Path) {
        self.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.add_tokens(invocation.tokens.clone());
        visit::visit_macro(self, invocation);
    }

    /// A `use` inside of a function is an import of the module.
    fn visit_item_use(&mut self, declaration: &'ast ItemUse) {
        self.import(declaration, false);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
    }
}

fn flatten(tree: &UseTree, prefix: &mut Vec<String>, add: &mut impl FnMut(Vec<String>, Option<String>)) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, add);
            prefix.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, add)),
        UseTree::Glob(_) => add(prefix.clone(), None),
        UseTree::Name(name) if name.ident == "self" => add(prefix.clone(), prefix.last().cloned()),
        UseTree::Name(name) => add([&prefix[..], &[name.ident.to_string()]].concat(), Some(name.ident.to_string())),
        UseTree::Rename(rename) => {
            let own = (rename.ident != "self").then(|| rename.ident.to_string());
            add([&prefix[..], own.as_slice()].concat(), Some(rename.rename.to_string()));
        }
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<Path>().is_ok_and(|path| path.is_ident("test"))
}

/// The type that kube derives: `#[kube(kind = "Customer")]` on `CustomerSpec`.
fn kind_of(attribute: &Attribute) -> Option<String> {
    let syn::Meta::List(list) = &attribute.meta else { return None };
    let tokens: Vec<String> = list.tokens.clone().into_iter().map(|token| token.to_string()).collect();
    let is_kube = attribute.path().is_ident("kube");
    let kind = tokens.windows(3).find(|window| is_kube && window[0] == "kind" && window[1] == "=")?;
    Some(kind[2].trim_matches('"').to_owned())
}

fn value_of(attribute: &Attribute, name: &str) -> Option<String> {
    match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident(name) => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(value), .. }) => Some(value.value()),
            _ => None,
        },
        _ => None,
    }
}
