"""Both stages at once: backbones trained under a fusion model. It knows neither params.yaml nor the project's folders."""
