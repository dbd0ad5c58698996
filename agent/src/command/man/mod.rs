//! `peerwall man`: peerwall(8), a page for each command, peerwall.toml(5), and
//! peerwall-sources.service(8).
//!
//! clap describes the options, `pages.md` adds the other sections, and the policy's page is
//! `docs/policy.md`. `peerwall-sources` is a program of its own, with a page that is all text.

mod markdown;

use std::fs;
use std::io;
use std::path::Path;

use clap_mangen::Man;
use roff::{Roff, bold, italic, roman};

use super::{DONE, trouble};
use crate::cli;
use crate::json::Failure;
use crate::output::Output;

/// Section of the commands: system administration.
const COMMANDS: &str = "8";
/// Date of the last edit of these pages.
const DATE: &str = "2026-11-26";
const MANUAL: &str = "peerwall";
const SOURCE: &str = concat!("peerwall ", env!("CARGO_PKG_VERSION"));
/// Under each `# command`: text for DESCRIPTION, then sections.
const PAGES: &str = include_str!("pages.md");
const POLICY: &str = include_str!("policy.md");
const SOURCES: &str = include_str!("sources.md");
/// Maximum length of a text line in bytes; mandoc's lint reports lines over 80.
const LINE_MAX: usize = 78;

/// Writes every page into a directory.
pub(super) fn run(folder: &Path) -> u8 {
    match write(folder) {
        Ok(()) => DONE,
        Err(err) => trouble(
            &format!("man: {}", folder.display()),
            Failure::io(&err),
            &Output::new(false),
        ),
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, text) in pages()? {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// File names and contents of all pages.
fn pages() -> io::Result<Vec<(String, String)>> {
    let mut program = cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = vec![
        ("peerwall.8".to_owned(), command_page(&program)?),
        ("peerwall.toml.5".to_owned(), policy_page()),
        ("peerwall-sources.service.8".to_owned(), sources_page()),
    ];
    for command in program.get_subcommands().filter(|each| !each.is_hide_set()) {
        let page = command_page(command)?;
        pages.push((format!("peerwall-{}.{COMMANDS}", command.get_name()), page));
    }
    Ok(pages)
}

/// The page of the program or of one of its commands.
fn command_page(command: &clap::Command) -> io::Result<String> {
    let (description, sections) = additions(command.get_name());
    let title = match command.get_name() {
        "peerwall" => "PEERWALL".to_owned(),
        name => format!("PEERWALL-{}", name.to_uppercase()),
    };
    let man = Man::new(command.clone())
        .title(title)
        .section(COMMANDS)
        .date(DATE)
        .source(SOURCE)
        .manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    markdown::roff(description, markdown::Start::Text).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    markdown::roff(sections, markdown::Start::Heading).to_writer(&mut page)?;
    Ok(tidy(&String::from_utf8_lossy(&page)))
}

/// The page of the policy's language.
fn policy_page() -> String {
    let name = "peerwall.toml - peer policy of peerwall";
    let mut page = beginning("PEERWALL.TOML", "5", name, cli::POLICY);
    page.control("SH", ["DESCRIPTION"]);
    page.extend([markdown::roff(untitled(POLICY), markdown::Start::Heading)]);
    let (_, sections) = additions("peerwall.toml");
    page.extend([markdown::roff(sections, markdown::Start::Heading)]);
    tidy(&page.render())
}

/// The page of the program that follows sources of peers, and of its unit.
fn sources_page() -> String {
    let name = "peerwall-sources.service, peerwall-sources - follow the sources of peers";
    let title = "PEERWALL-SOURCES.SERVICE";
    let mut page = beginning(title, COMMANDS, name, "peerwall-sources");
    page.text([roman("["), italic("OPTIONS"), roman("]")]);
    page.control("PP", []);
    page.text([bold("peerwall-sources.service")]);
    page.control("SH", ["DESCRIPTION"]);
    page.extend([markdown::roff(untitled(SOURCES), markdown::Start::Heading)]);
    tidy(&page.render())
}

/// Skips the title of a text, because the page has its own.
fn untitled(text: &str) -> &str {
    text.split_once("\n\n").map_or(text, |(_, rest)| rest)
}

/// The beginning of a page: name and synopsis.
fn beginning(title: &str, section: &str, name: &str, synopsis: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", [title, section, DATE, SOURCE, MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman(name)]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold(synopsis)]);
    page
}

/// Returns the additions of `pages.md` to a page: text for DESCRIPTION, and sections.
fn additions(name: &str) -> (&'static str, &'static str) {
    let mut pages = PAGES.split("\n# ");
    let text = pages.find_map(|page| page.strip_prefix(name)?.strip_prefix('\n'));
    let text = text.unwrap_or_default();
    text.find("\n## ")
        .map_or((text, ""), |heading| text.split_at(heading))
}

/// Keeps one preamble, drops trailing blanks and redundant breaks, wraps long lines, and encodes
/// the page in ASCII.
fn tidy(page: &str) -> String {
    let mut tidy = String::new();
    let mut has_preamble = false;
    let mut is_literal = false;
    let mut before = "-";
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let is_preamble = line.starts_with(".ie ") || line.starts_with(".el ");
        // An empty line also ends the line before it.
        let is_needless = line == ".br" && (before.is_empty() || lines.peek() == Some(&""));
        before = line;
        if is_preamble && has_preamble || is_needless {
            continue;
        }
        has_preamble |= line.starts_with(".el ");
        match line {
            ".nf" => is_literal = true,
            ".fi" => is_literal = false,
            _ => {}
        }
        let line = match line.is_empty() && !is_literal {
            true => ".sp".to_owned(),
            false => ascii(line.trim_end()),
        };
        match is_literal || line.starts_with('.') {
            true => tidy.push_str(&line),
            false => wrap(&line, &mut tidy),
        }
        tidy.push('\n');
    }
    tidy
}

/// Writes non-ASCII characters as groff escapes, because groff alone reads Latin-1.
fn ascii(line: &str) -> String {
    let mut ascii = String::new();
    for each in line.chars() {
        match each.is_ascii() {
            true => ascii.push(each),
            false => ascii.push_str(&format!("\\[u{:04X}]", u32::from(each))),
        }
    }
    ascii
}

/// Breaks a text line at spaces, but never before a word that roff would read as a request.
fn wrap(line: &str, to: &mut String) {
    let mut width = 0;
    for (index, word) in line.split_whitespace().enumerate() {
        let is_request = word.starts_with(['.', '\'']);
        if index > 0 && width + 1 + word.len() > LINE_MAX && !is_request {
            to.push('\n');
            width = 0;
        } else if index > 0 {
            to.push(' ');
            width += 1;
        }
        to.push_str(word);
        width += word.len();
    }
}

#[cfg(test)]
mod tests;
