use super::*;

#[test]
fn a_script_is_a_list_of_commands() {
    for (text, wanted) in [
        ("a b\nc", vec![(1, "a b", false), (2, "c", false)]),
        (
            "sudo /sbin/a 'b c' \"d\\\"e\"",
            vec![(1, "sudo /sbin/a b c d\"e", false)],
        ),
        (
            "a \\\n  b # no\nc",
            vec![(1, "a b", false), (3, "c", false)],
        ),
        (
            "a >/dev/null 2>&1; b",
            vec![(1, "a", false), (1, "b", false)],
        ),
        ("a || true\nb", vec![(1, "a", false), (2, "b", false)]),
        (
            "a || b\nc",
            vec![(1, "a", false), (1, "b", true), (2, "c", false)],
        ),
        ("a && b", vec![(1, "a", false), (1, "b", true)]),
        ("a | b", vec![(1, "a", true), (1, "b", true)]),
        ("a $B\nc '$D'", vec![(1, "a $B", true), (2, "c $D", false)]),
        ("a `b`", vec![(1, "a `b`", true)]),
        (
            "for i in 1 2; do\n a b\ndone\nc",
            vec![(1, "for i in 1 2", true), (2, "a b", true), (4, "c", false)],
        ),
        (
            "if a; then b; fi; c",
            vec![(1, "if a", true), (1, "b", true), (1, "c", false)],
        ),
        (
            "f() {\n a\n}\nb",
            vec![(1, "f() {", true), (2, "a", true), (4, "b", false)],
        ),
        (
            "f()\n{\n a\n}\nb",
            vec![(1, "f()", true), (3, "a", true), (5, "b", false)],
        ),
        ("A=b\nc \"\" d", vec![(1, "A=b", false), (2, "c  d", false)]),
        (
            "a <<END\nb c\nEND\nd <e",
            vec![(1, "a", false), (2, "b c", true), (4, "d", false)],
        ),
        ("a 'b", vec![(1, "a b", true)]),
        (
            "(\n a\n)\nb",
            vec![
                (1, "(", true),
                (2, "a", false),
                (3, ")", true),
                (4, "b", false),
            ],
        ),
        (
            "a && (\n b\n)\nc",
            vec![
                (1, "a", false),
                (1, "(", true),
                (2, "b", true),
                (3, ")", true),
                (4, "c", false),
            ],
        ),
        (
            "a || (b\n c)\nd",
            vec![
                (1, "a", false),
                (1, "( b", true),
                (2, "c)", true),
                (3, "d", false),
            ],
        ),
        (
            "f () (\n a\n)\nb",
            vec![
                (1, "f () (", true),
                (2, "a", true),
                (3, ")", true),
                (4, "b", false),
            ],
        ),
        (
            "a && (\n case x in\n y) b ;;\n esac\n c\n)\nd",
            vec![
                (1, "a", false),
                (1, "(", true),
                (2, "case x in", true),
                (3, "y) b", true),
                (5, "c", true),
                (6, ")", true),
                (7, "d", false),
            ],
        ),
        (
            "a $((1<<8))\nb",
            vec![(1, "a $((1<<8))", true), (2, "b", false)],
        ),
        (
            "((i = (1 | 2) << 3))\nb",
            vec![(1, "((i = (1 | 2) << 3))", true), (2, "b", false)],
        ),
        ("a <<<x\nb", vec![(1, "a", false), (2, "b", false)]),
    ] {
        let found = commands(text);
        let got: Vec<(usize, String, bool)> = found
            .iter()
            .map(|command| (command.line, command.words.join(" "), command.is_shell))
            .collect();
        let wanted: Vec<(usize, String, bool)> = wanted
            .into_iter()
            .map(|(line, words, is_shell)| (line, words.to_owned(), is_shell))
            .collect();
        assert_eq!(got, wanted, "{text}");
    }
}
