"""The science of Fluxline: torch in, torch out; knows nothing of Prefect or MLflow."""
