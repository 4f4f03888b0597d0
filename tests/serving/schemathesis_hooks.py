"""What a schema cannot say: which bytes are a picture. Loaded by schemathesis."""

import base64

import schemathesis
from hypothesis import strategies as st

from serving.conftest import picture

FILES = [picture(seed, kind, (8, 8)) for seed, kind in enumerate(("PNG", "JPEG", "WEBP"))]
files = st.sampled_from(FILES)

for media_type in ("image/png", "image/jpeg", "image/jpg", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, files)
schemathesis.openapi.format("binary", files)
schemathesis.openapi.format("base64-image", files.map(lambda data: base64.b64encode(data).decode()))
