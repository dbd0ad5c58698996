//! Questions that nobody can answer from outside: each possible answer is tried.

/// A question of one evaluation, and the answer that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is not known, as a noun phrase.
    pub about: String,
    /// The answer that was tried, from 0.
    pub answer: usize,
    /// Number of possible answers.
    answers: usize,
}

/// Answers for one evaluation.
#[derive(Debug, Default)]
pub struct Choices {
    given: Vec<usize>,
    asked: Vec<Question>,
}

impl Choices {
    /// Answers a question by the number of one of its answers.
    pub fn choose(&mut self, answers: usize, about: impl FnOnce() -> String) -> usize {
        let answer = self.given.get(self.asked.len()).copied().unwrap_or(0);
        self.asked.push(Question {
            about: about(),
            answer,
            answers,
        });
        answer
    }

    /// Answers a question with yes or no.
    pub fn is_so(&mut self, about: impl FnOnce() -> String) -> bool {
        self.choose(2, about) == 1
    }
}

/// Results for all answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explored<T> {
    /// The questions of each evaluation, and its result.
    pub branches: Vec<(Vec<Question>, T)>,
    /// Whether every answer was tried.
    pub is_complete: bool,
}

/// Evaluates with every combination of answers, at most `limit` times.
pub fn explore<T>(limit: usize, mut evaluate: impl FnMut(&mut Choices) -> T) -> Explored<T> {
    let mut open = vec![Vec::new()];
    let mut branches = Vec::new();
    while let Some(given) = open.pop() {
        if branches.len() >= limit {
            return Explored {
                branches,
                is_complete: false,
            };
        }
        let decided = given.len();
        let mut choices = Choices {
            given,
            asked: Vec::new(),
        };
        let result = evaluate(&mut choices);
        let answers: Vec<usize> = choices.asked.iter().map(|each| each.answer).collect();
        for (at, question) in choices.asked.iter().enumerate().skip(decided) {
            for other in 1..question.answers {
                let mut given = answers[..at].to_vec();
                given.push(other);
                open.push(given);
            }
        }
        branches.push((choices.asked, result));
    }
    Explored {
        branches,
        is_complete: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_tried_once() {
        // The second question exists only after one answer to the first one.
        let evaluate = |choices: &mut Choices| {
            let first = choices.choose(3, || "a".into());
            let second = (first == 1).then(|| choices.is_so(|| "b".into()));
            (first, second)
        };
        let found = explore(10, evaluate);
        let mut results: Vec<_> = found.branches.iter().map(|(_, result)| *result).collect();
        results.sort();
        assert!(found.is_complete);
        assert_eq!(
            results,
            [(0, None), (1, Some(false)), (1, Some(true)), (2, None)]
        );
        let some = explore(2, evaluate);
        assert_eq!((some.branches.len(), some.is_complete), (2, false));
        assert!(explore(1, |_| ()).is_complete);
    }
}
