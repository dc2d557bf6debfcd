"""The model as an application of MONAI's Deploy App SDK. Needs that SDK, which nothing else here does."""
