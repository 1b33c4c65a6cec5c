"""LinkService: protobuf in, protobuf out; a file for each noun, put together in `service.py`."""
