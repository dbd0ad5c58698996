//! Decodes contents of files in configurations: base64, gzip and `data:` URLs (RFC 2397).

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;

/// Maximum size of decompressed content.
const SIZE_MAX_BYTES: u64 = 64 << 20;

/// Decodes the content of a `write_files` entry; `plain` is what it is without an encoding.
pub(super) fn decoded(content: &str, encoding: &str, plain: &str) -> Result<String, String> {
    let bytes = match encoding.to_ascii_lowercase().as_str() {
        "" | "text/plain" => return Ok(plain.to_owned()),
        "b64" | "base64" => base64(content)?,
        "gz+b64" | "gzip+b64" | "gz+base64" | "gzip+base64" => gunzip(&base64(content)?)?,
        // YAML gives text, so these bytes are damaged already.
        other => return Err(format!("is encoded as {other}")),
    };
    Ok(lossy(&bytes))
}

/// Returns the content of a URL in Ignition. Only `data:` URLs contain it.
pub(super) fn from_url(url: &str, compression: &str) -> Result<String, String> {
    let data = url
        .strip_prefix("data:")
        .ok_or_else(|| format!("is elsewhere, at {url}"))?;
    let (kind, data) = data.split_once(',').ok_or("is not a valid `data:` URL")?;
    let data = percent_decoded(data);
    let bytes = match kind.ends_with(";base64") {
        true => base64(&lossy(&data))?,
        false => data,
    };
    match compression {
        "" => Ok(lossy(&bytes)),
        "gzip" => gunzip(&bytes).map(|bytes| lossy(&bytes)),
        other => Err(format!("is compressed with {other}")),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    let text: String = text.split_whitespace().collect();
    STANDARD
        .decode(text)
        .map_err(|err| format!("is not valid base64: {err}"))
}

pub(crate) fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut reader = MultiGzDecoder::new(bytes).take(SIZE_MAX_BYTES + 1);
    reader
        .read_to_end(&mut out)
        .map_err(|err| format!("is not valid gzip: {err}"))?;
    match out.len() as u64 > SIZE_MAX_BYTES {
        true => Err(format!("is larger than {} MiB", SIZE_MAX_BYTES >> 20)),
        false => Ok(out),
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}
