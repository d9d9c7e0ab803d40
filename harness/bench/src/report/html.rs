//! A page being written: every text goes through the escape, only this module's callers' own markup
//! does not.

use super::svg::Escaped;
use std::fmt::{self, Write};

/// A growing piece of HTML.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup of our own. Texts in it must be [`Escaped`].
    pub(super) fn markup(&mut self, arguments: fmt::Arguments<'_>) {
        self.0.write_fmt(arguments).expect("a string grows");
    }

    /// An element with a class and a text.
    pub(super) fn element(&mut self, tag: &str, class: &str, text: &str) {
        self.markup(format_args!("<{tag} class=\"{class}\">{}</{tag}>\n", Escaped(text)));
    }

    /// An element that holds what `content` writes.
    pub(super) fn within(&mut self, tag: &str, class: &str, content: impl FnOnce(&mut Self)) {
        self.markup(format_args!("<{tag} class=\"{class}\">\n"));
        content(self);
        self.markup(format_args!("</{tag}>\n"));
    }

    /// A section with a heading that can be linked to.
    pub(super) fn section(&mut self, id: &str, heading: &str, content: impl FnOnce(&mut Self)) {
        self.markup(format_args!("<section id=\"{}\">\n<h2>{}</h2>\n", Escaped(id), Escaped(heading)));
        content(self);
        self.markup(format_args!("</section>\n"));
    }

    /// A chart, which is markup already.
    pub(super) fn chart(&mut self, svg: &str) {
        self.0.push_str(svg);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// A table whose cells are texts.
pub(super) struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: String,
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Text,
    Number,
}

/// A cell of a table.
pub(super) struct Field {
    pub(super) text: String,
    pub(super) note: String,
    pub(super) class: &'static str,
    pub(super) link: Option<String>,
    /// Files beside the page, by name.
    pub(super) files: Vec<(String, String)>,
}

impl Field {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), note: String::new(), class: "", link: None, files: Vec::new() }
    }

    /// Links to files beside the page, as (name, path).
    pub(super) fn files(files: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { files: files.into_iter().collect(), ..Self::new("") }
    }

    /// A second, smaller line.
    pub(super) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    pub(super) fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }

    pub(super) fn link(self, target: &str) -> Self {
        Self { link: Some(target.to_owned()), ..self }
    }
}

impl Table {
    pub(super) fn new(heads: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { heads: heads.into_iter().collect(), rows: String::new() }
    }

    pub(super) fn row(&mut self, class: &str, fields: impl IntoIterator<Item = Field>) {
        let mut row = format!("<tr class=\"{class}\">");
        for (field, (_, align)) in fields.into_iter().zip(&self.heads) {
            let number = if *align == Align::Number { "number " } else { "" };
            row.push_str(&format!("<td class=\"{number}{}\">", field.class));
            match &field.link {
                Some(target) => {
                    row.push_str(&format!("<a href=\"#{}\">{}</a>", Escaped(target), Escaped(&field.text)));
                }
                None => row.push_str(&Escaped(&field.text).to_string()),
            }
            for (name, path) in &field.files {
                row.push_str(&format!("<a class=\"file\" href=\"{}\">{}</a> ", Escaped(path), Escaped(name)));
            }
            if !field.note.is_empty() {
                row.push_str(&format!("<small>{}</small>", Escaped(&field.note)));
            }
            row.push_str("</td>");
        }
        self.rows.push_str(&row);
        self.rows.push_str("</tr>\n");
    }

    pub(super) fn write(self, html: &mut Html) {
        html.markup(format_args!("<div class=\"table\"><table><thead><tr>"));
        for (head, align) in &self.heads {
            let class = if *align == Align::Number { "number" } else { "" };
            html.markup(format_args!("<th class=\"{class}\">{}</th>", Escaped(head)));
        }
        html.markup(format_args!("</tr></thead><tbody>\n{}</tbody></table></div>\n", self.rows));
    }
}
