//! SHA-256 in the form in which it is stored and compared.

use sha2::{Digest as _, Sha256};

/// Returns the digest of everything that was hashed, in hexadecimal.
pub(crate) fn hex(hasher: Sha256) -> String {
    let bytes = hasher.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
