//! Splits a shell script into simple commands, without evaluating anything.
//!
//! Grammar: "Shell Command Language" in POSIX.1-2017. What is not understood counts as something
//! that only the shell can evaluate.

/// A simple command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// Number of its first line, from 1.
    pub line: usize,
    /// Number of its last line.
    pub last_line: usize,
    /// Words without quotes.
    pub words: Vec<String>,
    /// Whether only the shell can tell whether it runs, or with which words.
    pub is_shell: bool,
    /// Whether only the shell can tell whether it runs.
    pub is_conditional: bool,
    /// Whether it runs only if the command before it fails.
    pub is_fallback: bool,
    /// Whether nothing happens if it fails: `-` in a unit of systemd.
    pub may_fail: bool,
    /// Whether it has redirections. If one fails, so does the command.
    pub is_redirected: bool,
    /// Whether another command reads what it prints.
    pub is_piped: bool,
    /// Nesting before and after its keywords.
    pub nesting: (usize, usize),
    /// Name of the function that it begins.
    pub function: Option<String>,
    /// Number of the command that reads this line of a here-document.
    pub reader: Option<usize>,
    /// That line, without the tabs that `<<-` removes.
    pub text: String,
    /// Number of its redirections of input.
    pub inputs: usize,
}

/// A here-document whose lines follow.
struct Document {
    /// The line that ends it.
    end: String,
    /// Whether tabs at the begin of lines are removed: `<<-`.
    is_indented: bool,
    /// Number of the command that reads it.
    reader: usize,
}

/// What ends a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The end of the line, `;` or `&`.
    Plain,
    /// `&&`: the next command depends on this one.
    And,
    /// `||`
    Or,
    /// `|`
    Pipe,
}

/// Splits a script.
pub(super) fn commands(text: &str) -> Vec<Command> {
    let mut splitter = Splitter {
        chars: text.chars().peekable(),
        line: 1,
        command: Command::default(),
        word: None,
        depth: 0,
        parentheses: Parentheses::default(),
        subshells: Vec::new(),
        before: End::Plain,
        is_redirection: false,
        redirection: String::new(),
        is_document: false,
        documents: Vec::new(),
        found: Vec::new(),
    };
    splitter.all();
    splitter.found
}

struct Splitter<'t> {
    chars: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
    command: Command,
    word: Option<String>,
    /// Nesting of loops, conditions and functions.
    depth: usize,
    parentheses: Parentheses,
    /// The subshells that are open: the nesting where each one starts, and whether only the shell
    /// can tell whether it runs.
    subshells: Vec<(usize, bool)>,
    /// What ended the command before; the command depends on it unless it is plain.
    before: End,
    /// Whether the next word is the file of a redirection.
    is_redirection: bool,
    /// The rest of the redirection's operator.
    redirection: String,
    /// Whether that word ends a here-document.
    is_document: bool,
    /// The here-documents of this line.
    documents: Vec<Document>,
    found: Vec<Command>,
}

/// Parentheses of a command that are not quoted.
#[derive(Debug, Clone, Copy, Default)]
struct Parentheses {
    /// Those that start a subshell: before the first word.
    starts: usize,
    /// Other ones that are open: of functions and substitutions.
    inner: usize,
    /// Those that close what an earlier command or this one opens.
    ends: usize,
}

impl Splitter<'_> {
    fn all(&mut self) {
        while let Some(c) = self.chars.next() {
            match c {
                '\n' => {
                    self.end(End::Plain);
                    self.line += 1;
                    self.documents();
                }
                ' ' | '\t' | '\r' => self.end_word(),
                ';' => self.end(End::Plain),
                '&' => self.ampersand(),
                '|' => {
                    let is_or = self.chars.next_if_eq(&'|').is_some();
                    self.end(if is_or { End::Or } else { End::Pipe });
                }
                '#' if self.word.is_none() => self.skip_comment(),
                '\'' => self.single_quotes(),
                '"' => self.double_quotes(),
                '\\' => match self.chars.next() {
                    Some('\n') => self.line += 1,
                    // A script of another system.
                    Some('\r') if self.chars.peek() == Some(&'\n') => {
                        self.line += 1;
                        self.chars.next();
                    }
                    other => self.push(other.unwrap_or('\\')),
                },
                '>' => self.redirect(false),
                // The other one begins a here-document.
                '<' if self.chars.peek() == Some(&'<') => {
                    self.redirect(true);
                    self.is_document = self.redirection.trim_end_matches('-') == "<";
                }
                '<' => self.redirect(true),
                '(' => self.open(),
                ')' => {
                    match self.parentheses.inner.checked_sub(1) {
                        Some(inner) => self.parentheses.inner = inner,
                        None => self.parentheses.ends += 1,
                    }
                    self.command.is_shell = true;
                    self.push(c);
                }
                '$' | '`' | '*' | '?' | '[' | '{' | '~' => {
                    self.command.is_shell = true;
                    self.push(c);
                }
                other => self.push(other),
            }
        }
        self.end(End::Plain);
    }

    fn open(&mut self) {
        self.command.is_shell = true;
        let mut words = self.command.words.iter();
        let is_first = self.word.is_none() && words.all(|word| word == "(");
        let is_expansion = self.word.as_ref().is_some_and(|word| word.ends_with('$'));
        self.push('(');
        if (is_first || is_expansion) && self.chars.next_if_eq(&'(').is_some() {
            self.arithmetic();
        } else if is_first {
            self.parentheses.starts += 1;
            self.end_word();
        } else {
            self.parentheses.inner += 1;
        }
    }

    /// Takes the rest of `((…))`, in which `<<` and `|` are operators on numbers.
    fn arithmetic(&mut self) {
        self.push('(');
        let mut open = 2_usize;
        while let Some(c) = self.chars.next_if(|_| open > 0) {
            match c {
                '(' => open += 1,
                ')' => open -= 1,
                '\n' => self.line += 1,
                _ => {}
            }
            self.push(c);
        }
    }

    fn push(&mut self, c: char) {
        if self.word.is_none() && self.command.words.is_empty() {
            self.command.line = self.line;
        }
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else {
            return;
        };
        match (
            std::mem::take(&mut self.is_redirection),
            std::mem::take(&mut self.is_document),
        ) {
            (false, _) => self.command.words.push(word),
            (true, true) => self.documents.push(Document {
                end: word,
                is_indented: self.redirection.ends_with('-'),
                reader: self.found.len(),
            }),
            (true, false) => {}
        }
    }

    /// Takes the lines of here-documents. Their commands are the shell's business.
    fn documents(&mut self) {
        for document in std::mem::take(&mut self.documents) {
            while self.chars.peek().is_some() {
                let mut text = String::new();
                while let Some(c) = self.chars.next_if(|c| *c != '\n') {
                    text.push(c);
                }
                self.chars.next();
                let line = self.line;
                self.line += 1;
                let text = text.trim_end_matches('\r');
                let text = match document.is_indented {
                    true => text.trim_start_matches('\t'),
                    false => text,
                };
                if text == document.end {
                    break;
                }
                self.found.push(Command {
                    line,
                    words: text.split_whitespace().map(str::to_owned).collect(),
                    text: text.to_owned(),
                    is_shell: true,
                    reader: Some(document.reader),
                    nesting: (self.depth, self.depth),
                    ..Command::default()
                });
            }
        }
    }

    /// Skips `>file`, `2>&1`, `<file`. A here-document gives input that is not in this command.
    fn redirect(&mut self, is_input: bool) {
        let is_number = |word: &String| word.chars().all(|c| c.is_ascii_digit());
        let has_number = self.word.as_ref().is_some_and(is_number);
        if has_number {
            self.word = None;
        }
        self.end_word();
        self.redirection.clear();
        while let Some(c) = self.chars.next_if(|c| matches!(c, '>' | '<' | '&' | '-')) {
            self.redirection.push(c);
        }
        self.is_redirection = true;
        self.command.is_redirected = true;
        self.command.inputs += usize::from(is_input) * if has_number { 2 } else { 1 };
    }

    fn ampersand(&mut self) {
        if self.chars.next_if_eq(&'>').is_some() {
            return self.redirect(false);
        }
        if self.chars.next_if_eq(&'&').is_some() {
            return self.end(End::And);
        }
        // When it runs is unknown, and it ends no script.
        self.command.is_shell = true;
        self.command.is_conditional = true;
        self.end(End::Plain);
    }

    fn skip_comment(&mut self) {
        while self.chars.next_if(|c| *c != '\n').is_some() {}
    }

    fn single_quotes(&mut self) {
        if self.word.is_none() {
            self.begin_word();
        }
        for c in self.chars.by_ref() {
            if c == '\'' {
                return;
            }
            self.line += usize::from(c == '\n');
            self.word.get_or_insert_default().push(c);
        }
        self.command.is_shell = true;
    }

    fn double_quotes(&mut self) {
        if self.word.is_none() {
            self.begin_word();
        }
        while let Some(c) = self.chars.next() {
            let c = match c {
                '"' => return,
                '\\' => match self.chars.next() {
                    Some('\n') => {
                        self.line += 1;
                        continue;
                    }
                    Some(c @ ('"' | '\\' | '$' | '`')) => c,
                    other => {
                        self.word.get_or_insert_default().push('\\');
                        other.unwrap_or('\\')
                    }
                },
                '$' | '`' => {
                    self.command.is_shell = true;
                    c
                }
                c => c,
            };
            self.line += usize::from(c == '\n');
            self.word.get_or_insert_default().push(c);
        }
        self.command.is_shell = true;
    }

    /// Begins a word that may be empty.
    fn begin_word(&mut self) {
        if self.command.words.is_empty() {
            self.command.line = self.line;
        }
        self.word = Some(String::new());
    }

    fn end(&mut self, end: End) {
        self.end_word();
        self.is_redirection = false;
        let mut command = std::mem::take(&mut self.command);
        let parentheses = std::mem::take(&mut self.parentheses);
        if command.words.is_empty() {
            // `&&` at the end of a line continues on the next.
            if end != End::Plain {
                self.before = end;
            }
            return;
        }
        let outer = self.depth;
        self.keywords(&mut command);
        let before = std::mem::replace(&mut self.before, end);
        let depends = before != End::Plain;
        // `|| true` and `&& :` change nothing.
        if depends && before != End::Pipe && matches!(command.program(), "true" | ":") {
            self.before = End::Plain;
            return;
        }
        command.last_line = self.line;
        command.nesting = (outer, self.depth);
        command.is_fallback = before == End::Or;
        command.is_piped = end == End::Pipe;
        let (is_inside, is_unsure) = self.subshells(parentheses, depends);
        command.is_conditional |= self.depth > 0 || is_inside || depends || end == End::Pipe;
        command.is_shell |= self.depth > 0 || is_unsure || depends || end == End::Pipe;
        if !command.words.is_empty() {
            self.found.push(command);
        }
    }

    /// Follows the nesting of subshells. Returns whether a command is in one, and whether only the
    /// shell can tell whether one of them runs.
    fn subshells(&mut self, found: Parentheses, depends: bool) -> (bool, bool) {
        let starts = std::iter::repeat_n((self.depth, depends), found.starts);
        // The body of a function, or a substitution, of several lines.
        let inner = std::iter::repeat_n((self.depth, true), found.inner);
        self.subshells.extend(starts.chain(inner));
        let is_unsure = self.subshells.iter().any(|(_, is_unsure)| *is_unsure);
        let is_inside = !self.subshells.is_empty();
        for _ in 0..found.ends {
            // Others end a pattern of `case`.
            let is_here = |(depth, _): &mut (usize, bool)| *depth == self.depth;
            let _ = self.subshells.pop_if(is_here);
        }
        (is_inside, is_unsure)
    }

    /// Follows the nesting of compound commands. Their bodies depend on the shell.
    fn keywords(&mut self, command: &mut Command) {
        while let Some(first) = command.words.first() {
            if let Some(name) = function(&command.words) {
                let opens = |word: &&String| *word == "{" || word.ends_with("(){");
                self.depth += command.words.iter().filter(opens).count();
                command.function = Some(name);
                command.is_shell = true;
                command.is_conditional = true;
                return;
            }
            match first.as_str() {
                "if" | "for" | "while" | "until" | "case" | "select" => {
                    self.depth += 1;
                    command.is_shell = true;
                    command.is_conditional = true;
                    return;
                }
                "fi" | "done" | "esac" => self.depth = self.depth.saturating_sub(1),
                "}" => self.depth = self.depth.saturating_sub(1),
                "{" => self.depth += 1,
                "then" | "do" | "else" | "elif" => {}
                _ => return,
            }
            command.is_shell = true;
            command.is_conditional = true;
            command.words.remove(0);
        }
    }
}

/// Returns the name of the function that a command begins.
fn function(words: &[String]) -> Option<String> {
    let first = words.first()?;
    let second = words.get(1).map_or("", String::as_str);
    if first == "function" {
        return Some(
            second
                .trim_end_matches('{')
                .trim_end_matches("()")
                .to_owned(),
        );
    }
    let is_next = matches!(second, "()" | "(){");
    let (name, rest) = first.split_once("()").unwrap_or((first, ""));
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_definition = (is_next || first.contains("()")) && matches!(rest, "" | "{");
    let is_named = !name.is_empty() && name.chars().all(is_name);
    (is_definition && is_named).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
