"""Operations: linear layers, precision, memory, decoding in tiles."""
