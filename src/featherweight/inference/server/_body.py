"""The body of a request: how much of it is read, and the picture in it.

Example:
    picture = file_in(content_type, content)        # the file of a form, otherwise the body itself
"""

from fastapi import HTTPException, Request
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header

from ..._pictures import MEDIA_TYPES
from ...errors import InputError

MAX_BYTES = 4 * 1024 * 1024  # of a request's body
RAW, FORM = "application/octet-stream", "multipart/form-data"
CONTENT_TYPES = (*MEDIA_TYPES, RAW, FORM)  # of a picture's body


async def read_body(request: Request, accepted: tuple[str, ...], limit: int) -> bytes:
    """Return a request's body.

    Raises HTTPException 415 if its content type is not accepted, and 413 as soon as it exceeds the
    limit, in bytes.
    """
    media_type = media_type_of(request.headers.get("content-type", ""))
    if media_type not in accepted:
        raise HTTPException(
            415, f"got content type {media_type or 'none'!r}, expected {', '.join(accepted)}"
        )
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise HTTPException(413, f"got over {limit:,} bytes, expected at most that many")
    return bytes(content)


def media_type_of(content_type: str) -> str:
    """Return the media type of a Content-Type header, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def file_in(content_type: str, body: bytes) -> bytes:
    """Return the file in a body: that of a form, as browsers and `curl -F` send it, or all of it.

    Raises InputError if a form has none, or several.
    """
    if media_type_of(content_type) != FORM:
        return body
    files: list[bytes] = []

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        files.append(file.file_object.read())

    _, options = parse_options_header(content_type)
    try:
        parser = FormParser(
            FORM,
            None,
            on_file,
            boundary=options.get(b"boundary"),
            config={"MAX_MEMORY_FILE_SIZE": MAX_BYTES},  # nothing is written to the disk
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InputError(
            f"got a form that can't be read ({error}), expected one with a file"
        ) from error
    if not files:
        raise InputError(
            "got a form without a file, expected one as `curl -F file=@photo.jpg` sends it"
        )
    if len(files) > 1:
        raise InputError(f"got a form with {len(files):,} files, expected one")
    return files[0]
