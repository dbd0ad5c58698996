//! Values by interface and source, numbered as in [`AcceptTable`](super::view::AcceptTable).

/// A value for each interface and source.
#[derive(Debug, Clone, Default)]
pub(super) struct Grid<T> {
    sources: usize,
    values: Vec<T>,
}

impl<T: Clone> Grid<T> {
    /// Creates a grid with one value in all cells.
    pub(super) fn new(interfaces: usize, sources: usize, value: T) -> Self {
        Self {
            sources,
            values: vec![value; interfaces * sources],
        }
    }

    pub(super) fn get(&self, interface: usize, source: usize) -> Option<&T> {
        self.values.get(interface * self.sources + source)
    }

    pub(super) fn set(&mut self, interface: usize, source: usize, value: T) {
        if let Some(slot) = self.values.get_mut(interface * self.sources + source) {
            *slot = value;
        }
    }
}
