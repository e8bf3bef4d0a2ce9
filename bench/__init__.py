"""The benchmark: Elanus beside real Milvus, milvus-lite and bare faiss, in one run on one machine."""
