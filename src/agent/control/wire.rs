//! Lines of bounded length over a byte stream.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

/// One line from a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its line break.
    Whole(Vec<u8>),
    /// A line longer than allowed; it was skipped, and the next one can be read.
    TooLong,
    /// The stream has ended. A last line without a line break is not a line.
    End,
}

/// Reads one line and keeps at most `max_bytes` of it in memory.
pub(super) async fn read_line<R>(reader: &mut R, max_bytes: usize) -> io::Result<Line>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(Line::End);
        }
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = end.and_then(|end| chunk.get(..end)).unwrap_or(chunk);
        if line.len() + part.len() > max_bytes {
            too_long = true;
            line = Vec::new();
        } else if !too_long {
            line.extend_from_slice(part);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(if too_long {
                Line::TooLong
            } else {
                Line::Whole(line)
            });
        }
    }
}

/// Writes one line. JSON never contains a raw line break, so none is looked for.
pub(super) async fn write_line<W>(writer: &mut W, mut json: Vec<u8>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    json.push(b'\n');
    writer.write_all(&json).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    #[tokio::test]
    async fn lines_are_bounded_whatever_the_buffer_is() {
        for capacity in [1, 3, 8, 64] {
            let bytes: &[u8] = b"12345\n\n123456\nab\nrest";
            let mut reader = BufReader::with_capacity(capacity, bytes);
            let mut next = async || read_line(&mut reader, 5).await.unwrap();
            assert_eq!(next().await, Line::Whole(b"12345".to_vec()));
            assert_eq!(next().await, Line::Whole(vec![]));
            assert_eq!(next().await, Line::TooLong);
            assert_eq!(next().await, Line::Whole(b"ab".to_vec()));
            assert_eq!(next().await, Line::End);
        }
    }
}
